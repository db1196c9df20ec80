"""Files of a merge that are in memory: what was written is looked at without a disk."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.registry import codec_for


class MemorySink:
    """See `Sink`. `values` decodes what was written."""

    def __init__(self, types: Mapping[str, str]) -> None:
        self._types = types
        self._rows: dict[str, dict[int, Bytes]] = {}

    def write(self, name: str, first_row: int, packed: Bytes) -> None:
        for number, row in enumerate(packed):
            rows = self._rows.setdefault(name, {})
            assert first_row + number not in rows, "a row is written once"
            rows[first_row + number] = row.copy()

    def reserved(self) -> AbstractContextManager[None]:
        return nullcontext()

    def packed(self, name: str) -> Bytes:
        """All rows of a tensor."""
        rows = self._rows[name]
        return np.stack([rows[number] for number in range(len(rows))])

    def values(self, name: str) -> Floats:
        """The tensor as a matrix."""
        return codec_for(self._types[name]).decode(self.packed(name))

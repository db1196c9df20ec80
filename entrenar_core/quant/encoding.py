"""How a tensor is encoded, and the encoding itself: pieces of rows on several threads, in bounded memory.

Each piece is decoded again where its error is asked for, so that what is reported is what the file holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import TrainingError
from entrenar_core.gguf.tensor_info import packed_shape
from entrenar_core.quant.rounding import ErrorSums, added_up
from entrenar_core.threads import Threads

PIECE_VALUES = 1 << 18
"""Values that a thread encodes at a time."""

PIECES_PER_THREAD = 4
"""Pieces of a window; its bytes are handed on before the next one is begun."""

Rows = Callable[[slice], Floats]
"""Some rows of a matrix, float32, decoded when they are asked for."""


class TensorEncoder(Protocol):
    """Encodes a whole tensor by a rule of its own, such as scales that rows share, into blocks of its type."""

    def encode(self, values: Floats, out: Bytes | None = None) -> Bytes:
        """float32 [rows, row] -> uint8 [rows, row_bytes]."""
        ...


@dataclass(frozen=True)
class Encoding:
    """How one tensor is written.

    type_name: of its blocks. importance: float32 [row], what the error of each column counts. encoder: in place of the
    codec of the type; it sees the whole tensor at once.
    """

    type_name: str
    importance: Floats | None = None
    encoder: TensorEncoder | None = None


Encodings = Mapping[str, Encoding]
"""By tensor name."""


def plain_encodings(types: Mapping[str, str]) -> dict[str, Encoding]:
    """Types alone, without importance."""
    return {name: Encoding(type_name) for name, type_name in types.items()}


@dataclass
class TensorEncoding:
    """One tensor, seen as a matrix [rows, row], on its way into a file.

    Attributes:
        shape: of the matrix; a vector has one row.
        source: its rows, float32; asked for piece by piece, on several threads.
        encoding: how it is written.
        start: rows of what training started from, for the size of the change; None: not known.
        is_measured: whether errors are summed up.
        sums: of the errors, complete once `pieces` is exhausted.
    """

    shape: tuple[int, int]
    source: Rows
    encoding: Encoding
    start: Rows | None = None
    is_measured: bool = True
    sums: ErrorSums = field(default_factory=ErrorSums)

    def pieces(self, threads: Threads) -> Iterator[Bytes]:
        """The packed bytes in order. An array is valid until the next one is asked for.

        Raises:
            TrainingError: a value is not finite.
            FormatError: the values do not fit the type.
        """
        n_rows, row = self.shape
        whole = self._encoded_at_once()
        height = max(1, PIECE_VALUES // row)
        window = min(height * threads.count * PIECES_PER_THREAD, n_rows)
        packed = np.empty(packed_shape((window, row), TYPE_BY_NAME[self.encoding.type_name]), np.uint8)
        for first in range(0, n_rows, window):
            target = packed[: min(window, n_rows - first)]
            found = [ErrorSums()] * -(-len(target) // height)
            threads.run_tasks(self._piece, len(found), whole, target, (first, height), found)
            self.sums += added_up(found)
            yield target

    def _encoded_at_once(self) -> Bytes | None:
        if self.encoding.encoder is None:
            return None
        values = self.source(slice(0, self.shape[0]))
        _require_finite(values)
        return self.encoding.encoder.encode(values)

    def _piece(
        self,
        whole: Bytes | None,
        target: Bytes,
        cut: tuple[int, int],
        found: list[ErrorSums],
        task: int,
        thread: int,
    ) -> None:
        del thread
        first, height = cut
        part = slice(task * height, min((task + 1) * height, len(target)))
        rows = slice(first + part.start, first + part.stop)
        values, out = np.ascontiguousarray(self.source(rows)), target[part]
        codec = codec_for(self.encoding.type_name)
        if whole is None:
            _require_finite(values)
            codec.encode(values, self.encoding.importance, out)
        else:
            out[...] = whole[rows]
        if self.is_measured:
            before = None if self.start is None else self.start(rows)
            found[task] = ErrorSums.of(values, codec.decode(out), before)


def _require_finite(values: Floats) -> None:
    if not np.isfinite(values).all():
        raise TrainingError("the values are not finite; nothing is written")

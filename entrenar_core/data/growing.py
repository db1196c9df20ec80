"""A flat array that grows item by item, in memory or in a file that is mapped when it is complete."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import OutputError

Scalar = TypeVar("Scalar", bound=np.generic)

SPILL_BYTES = 8 << 20
"""What is held in memory before it is appended to the file."""

NO_ROOM = "free some space, set data.cache_dir to another folder, or data.cache: false"
"""What to do when the files cannot be written."""

_CODES = {"int32": "i", "int64": "q", "float64": "d", "bool": "B"}


class GrowingArray(Generic[Scalar]):
    """Grows at its end; `finish` gives the array.

    Args:
        dtype: of the items: int32, int64, float64 or bool.
        path: of a new file for them; None: they stay in memory.
    """

    def __init__(self, dtype: type[Scalar], path: Path | None = None) -> None:
        self.dtype = np.dtype(dtype)
        self.path = path
        self._items = array(_CODES[self.dtype.name])
        self._spilled = 0

    def __len__(self) -> int:
        return self._spilled + len(self._items)

    def extend(self, items: Iterable[Any]) -> None:
        """Append all of `items`; bytes of 0 and 1 for bool."""
        self._items.extend(items)
        if self.path is not None and len(self._items) * self._items.itemsize > SPILL_BYTES:
            self._spill()

    def finish(self) -> npt.NDArray[Scalar]:
        """The array; read-only where it is mapped. Nothing may be appended any more.

        Raises:
            OutputError: the file cannot be written.
        """
        if self.path is None:
            return np.frombuffer(self._items, dtype=self.dtype)
        self._spill()
        return map_array(self.path, self.dtype)

    def _spill(self) -> None:
        assert self.path is not None
        try:
            with self.path.open("ab") as file:
                self._items.tofile(file)
        except OSError as error:
            raise OutputError(
                f"the token cache cannot be written: {error.strerror or error}", where=str(self.path), hint=NO_ROOM
            ) from error
        self._spilled += len(self._items)
        del self._items[:]


def map_array(path: Path, dtype: Any) -> npt.NDArray[Any]:
    """The items in a file that `GrowingArray` wrote, mapped into memory.

    Raises:
        OSError, ValueError: there is no such file, or its size is no multiple of an item's.
    """
    if path.stat().st_size == 0:
        return np.empty(0, dtype=dtype)
    return np.memmap(path, dtype=dtype, mode="r")

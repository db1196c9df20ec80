"""Where a merge writes to: files whose layout is known beforehand, filled by several threads at once."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol

from entrenar_core.codecs.base import Bytes


class Sink(Protocol):
    """Files that are open for writing. Names and row order are those of GGUF."""

    def write(self, name: str, first_row: int, packed: Bytes) -> None:
        """Put packed rows, C-contiguous uint8 [r, row_bytes] of the tensor's type, where they belong.

        A tensor is seen as a matrix (`model_tensors.matrix_shape`). Any thread may write any rows in any order.

        Raises:
            OSError: the disk is full, or fails.
        """
        ...

    def reserved(self) -> AbstractContextManager[None]:
        """Reserves the space of the files on another thread while the block runs; OSError when there is too little."""
        ...


class Output(Protocol):
    """Files as they will be."""

    @property
    def n_bytes(self) -> int:
        """Of all of them."""
        ...

    def opened(self) -> AbstractContextManager[Sink]:
        """The files, to write the tensors to. They take their names when the block ends.

        Raises:
            OutputError: they cannot be written. After this and any other error of the block nothing is left behind,
                and what was there before is as it was.
        """
        ...

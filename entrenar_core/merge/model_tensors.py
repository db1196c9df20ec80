"""What a merge knows of one input model, whatever its files are: names and shapes, metadata, and rows of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import Bytes
from entrenar_core.gguf.values import MetadataValue

Floats = npt.NDArray[np.float32]
Shape = tuple[int, ...]
Entries = list[tuple[str, MetadataValue]]


class ModelTensors(Protocol):
    """A model to read from, on several threads at once. Names, row order and metadata are those of GGUF.

    A tensor is read as a matrix [R, C]: C is its last axis, and a vector is one row.
    """

    @property
    def path(self) -> str:
        """As messages name the model."""
        ...

    @property
    def architecture(self) -> str:
        """``general.architecture``."""
        ...

    @property
    def shapes(self) -> Mapping[str, Shape]:
        """In numpy order, [out, in], by name."""
        ...

    @property
    def metadata(self) -> Entries:
        """GGUF's keys in order."""
        ...

    @property
    def tokens(self) -> Sequence[str]:
        """The vocabulary; empty where there is none."""
        ...

    @property
    def n_bytes(self) -> int:
        """Of all files."""
        ...

    def type_name(self, name: str) -> str:
        """The GGML type that the tensor has in a GGUF of this model: ``F16``, ``Q4_0``."""
        ...

    def read(self, name: str, first_row: int, out: Floats) -> None:
        """Fill `out`, float32 [r, C] and C-contiguous, with the rows of a tensor from `first_row` on.

        Raises:
            FormatError: the file cannot be read, or a value is not finite; tensor, row and column are named.
        """
        ...

    def packed(self, name: str) -> PackedRows | None:
        """What gives the rows of a tensor as they are packed; None where its values are computed."""
        ...

    def close(self) -> None:
        """Let go of the files."""
        ...


class PackedRows(Protocol):
    """Rows as they are packed, so that they can be copied: blocks change when they are made anew from their own
    values."""

    def read_packed(self, name: str, first_row: int, raw: Bytes) -> None:
        """Fill `raw`, C-contiguous uint8 [r, row_bytes], with rows in the type that `type_name` says."""
        ...


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """[R, C] of a tensor: see `ModelTensors`."""
    if len(shape) < 2:
        return 1, shape[0] if shape else 1
    n_rows = 1
    for axis in shape[:-1]:
        n_rows *= axis
    return n_rows, shape[-1]

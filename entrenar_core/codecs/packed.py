"""A matrix in GGML blocks, and its values piece by piece: what a frozen weight is held as.

The blocks may lie in a memory-mapped file; nothing here keeps what it decodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from entrenar_core.codecs.base import Bytes, Codec, Floats, decoded_shape
from entrenar_core.codecs.registry import codec_for

WHOLE = slice(None)


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """blocks uint8 [out, row_bytes] of one GGML type, for values [out, in].

    Raises:
        FormatError: the type has no codec, or a row is no whole number of blocks.
        ValueError: not a matrix.
    """

    blocks: Bytes
    type_name: str

    def __post_init__(self) -> None:
        if self.blocks.ndim != 2:
            raise ValueError(f"packed rows of shape {self.blocks.shape} are not [out, row_bytes]")
        decoded_shape(self.codec, self.blocks)

    @classmethod
    def encode(cls, values: Floats, type_name: str) -> PackedMatrix:
        """values float32 [out, in] in blocks.

        Raises:
            FormatError: the values do not fit the type; see `Codec.encode`.
        """
        return cls(codec_for(type_name).encode(values), type_name)

    @cached_property
    def codec(self) -> Codec:
        return codec_for(self.type_name)

    @cached_property
    def shape(self) -> tuple[int, int]:
        """[out, in] of the values."""
        n_out, row_bytes = self.blocks.shape
        return n_out, row_bytes // self.codec.block_bytes * self.codec.block_size

    @property
    def n_bytes(self) -> int:
        return self.blocks.nbytes

    def values(self, rows: slice = WHOLE, blocks: slice = WHOLE, out: Floats | None = None) -> Floats:
        """float32 values of some rows, and of some blocks of each row; into `out` when given."""
        size = self.codec.block_bytes
        first, last, _ = blocks.indices(self.blocks.shape[1] // size)
        return self.codec.decode(self.blocks[rows, first * size : last * size], out)

    def equals(self, other: PackedMatrix) -> bool:
        """Whether both are the same bytes of the same type."""
        return self.type_name == other.type_name and np.array_equal(self.blocks, other.blocks)

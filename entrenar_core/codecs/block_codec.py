"""What the codecs of block types share: packed rows are cut into pieces, and a kernel decodes one piece at a time.

Rows may be strided (some blocks of every row of a matrix): only the piece at hand is copied. Kernels see read-only
blocks alone, whether they come from a mapped file or from memory, so that each kernel is compiled once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats, decoded_shape, output_array
from entrenar_core.errors import FormatError

PIECE_VALUES = 1 << 18
"""Values decoded by one call of a kernel: enough that the call costs nothing beside them."""


class BlockCodec(ABC):
    """A block type: what a subclass decodes is one piece of blocks; what it does not encode cannot be written."""

    type_name: ClassVar[str]
    block_size: ClassVar[int]
    block_bytes: ClassVar[int]

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        values = output_array(decoded_shape(self, raw), out)
        if values.size:
            with np.errstate(all="ignore"):  # a scale that is no number makes values that are none
                for blocks, target in self._pieces(raw, values):
                    self._decode_blocks(blocks, target)
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del values, importance, out
        raise FormatError(
            f"{self.type_name} can be read but not written",
            hint="write F16, BF16 or F32",
        )

    @abstractmethod
    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        """blocks uint8 [N, block_bytes], read-only and C-contiguous -> values float32 [N, block_size]."""

    def _pieces(self, raw: Bytes, values: Floats) -> Iterator[tuple[Bytes, Floats]]:
        """Matching blocks [N, block_bytes] and places of their values [N, block_size], in order."""
        targets = values.reshape(-1, self.block_size)
        step = PIECE_VALUES // self.block_size
        start = 0
        for rows in _contiguous_rows(raw, step * self.block_bytes):
            blocks = rows.reshape(-1, self.block_bytes)
            blocks.setflags(write=False)
            for first in range(0, len(blocks), step):
                piece = blocks[first : first + step]
                yield piece, targets[start : start + len(piece)]
                start += len(piece)


def float16_scales(blocks: Bytes, first: int, last: int) -> Floats:
    """The float16 numbers in bytes first ... last of every block, as float32 [N, (last - first) / 2]."""
    return np.ascontiguousarray(blocks[:, first:last].view("<f2").astype(np.float32))


def _contiguous_rows(raw: Bytes, piece_bytes: int) -> Iterator[Bytes]:
    """`raw` itself when its bytes lie side by side, else copies of a few rows or of a part of a row at a time."""
    if raw.flags.c_contiguous:
        yield raw.view()
        return
    rows = raw.reshape(-1, raw.shape[-1])
    row_bytes = rows.shape[1]
    if row_bytes > piece_bytes:
        for row in rows:
            yield from (row[first : first + piece_bytes].copy() for first in range(0, row_bytes, piece_bytes))
        return
    step = piece_bytes // row_bytes
    yield from (rows[first : first + step].copy() for first in range(0, len(rows), step))

"""Q4_0 and Q8_0: blocks of 32 values with one float16 scale, byte for byte as llama.cpp's reference quantizer.

Q4_0 stores d and 4-bit codes, x = d·(code - 8); Q8_0 stores d and int8 codes, x = d·code. A block of zeros is exact.
The kernels are compiled when the first block is met: importing numba takes longer than opening a model.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import (
    CHUNK_VALUES,
    Bytes,
    Floats,
    decoded_shape,
    encoded_shape,
    output_array,
    output_bytes,
)
from entrenar_core.errors import FormatError

_BLOCK = 32
_SCALE_BYTES = 2
_CHUNK_BLOCKS = CHUNK_VALUES // _BLOCK


class Q4_0Codec:
    """Four bits a value: d = the value of largest magnitude / -8, codes rounded to 0 ... 15."""

    type_name = "Q4_0"
    block_size = _BLOCK
    block_bytes = 18

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q4_0

        values = output_array(decoded_shape(self, raw), out)
        for blocks, scales, target in _packed_chunks(raw, values, self.block_bytes):
            decode_q4_0(blocks, scales, target)
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        from entrenar_core.codecs.legacy_kernels import encode_q4_0

        packed = output_bytes(encoded_shape(self, values), out)
        for source, target in _value_chunks(values, packed, self.block_bytes):
            scales = np.empty(len(source), np.float32)
            encode_q4_0(source, source.view(np.int32), scales, target)
            _store_scales(self.type_name, source, scales, target)
        return packed


class Q8_0Codec:
    """Eight bits a value: d = the largest magnitude / 127, codes rounded half away from zero."""

    type_name = "Q8_0"
    block_size = _BLOCK
    block_bytes = 34

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q8_0

        values = output_array(decoded_shape(self, raw), out)
        for blocks, scales, target in _packed_chunks(raw, values, self.block_bytes):
            decode_q8_0(blocks.view(np.int8), scales, target)
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        from entrenar_core.codecs.legacy_kernels import encode_q8_0

        packed = output_bytes(encoded_shape(self, values), out)
        for source, target in _value_chunks(values, packed, self.block_bytes):
            scales = np.empty(len(source), np.float32)
            encode_q8_0(source, source.view(np.int32), scales, target.view(np.int8))
            _store_scales(self.type_name, source, scales, target)
        return packed


def _packed_chunks(raw: Bytes, values: Floats, block_bytes: int) -> Iterator[tuple[Bytes, Floats, Floats]]:
    """Blocks uint8 [N, block_bytes], their scales float32 [N], and where their values go, float32 [N, 32]."""
    blocks = np.ascontiguousarray(raw).reshape(-1, block_bytes)
    targets = values.reshape(-1, _BLOCK)
    for start in range(0, len(blocks), _CHUNK_BLOCKS):
        part = slice(start, start + _CHUNK_BLOCKS)
        yield blocks[part], blocks[part, :_SCALE_BYTES].view("<f2")[:, 0].astype(np.float32), targets[part]


def _value_chunks(values: Floats, packed: Bytes, block_bytes: int) -> Iterator[tuple[Floats, Bytes]]:
    sources = np.ascontiguousarray(values).reshape(-1, _BLOCK)
    targets = packed.reshape(-1, block_bytes)
    for start in range(0, len(sources), _CHUNK_BLOCKS):
        part = slice(start, start + _CHUNK_BLOCKS)
        yield sources[part], targets[part]


def _store_scales(type_name: str, source: Floats, scales: Floats, blocks: Bytes) -> None:
    """Round the scales to float16 and put them in front of the codes.

    Raises:
        FormatError: a value is NaN or infinite, or so large that its block's scale is beyond float16.
    """
    with np.errstate(over="ignore", under="ignore"):
        halves: npt.NDArray[Any] = scales.astype("<f2")
    lost = ~np.isfinite(halves)
    if lost.any():
        worst = source[lost][0]
        value = worst[~np.isfinite(worst)][0] if not np.isfinite(worst).all() else worst[np.abs(worst).argmax()]
        raise FormatError(
            f"{float(value):g} does not fit a block of {type_name}",
            hint="write this tensor as F32, or look for the step at which its values blew up",
        )
    blocks[:, :_SCALE_BYTES] = halves.view(np.uint8).reshape(-1, _SCALE_BYTES)

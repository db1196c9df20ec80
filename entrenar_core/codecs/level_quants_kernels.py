"""Decoder of 4-bit codes that stand for levels, with every bit as in gguf-py."""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_LOW_NIBBLE = np.uint8(15)
_FOUR_BITS = np.uint8(4)
_THIRTY_TWO = np.float32(32.0)


@kernel(exact=True)
def decode_levels(blocks, first, scales, levels, values):
    """scale·level: blocks uint8 [N, block_bytes] with codes from byte `first`, scales [N, parts] -> values [N, size].

    A part has as many values as the block has for each scale; the low nibbles are its first half.
    """
    parts = scales.shape[1]
    half = values.shape[1] // parts // 2
    for n in range(blocks.shape[0]):
        for part in range(parts):
            packed = blocks[n, first + part * half : first + (part + 1) * half]
            start = 2 * part * half
            low, high = values[n, start : start + half], values[n, start + half : start + 2 * half]
            scale = scales[n, part]
            for i in range(packed.size):
                low[i] = scale * levels[packed[i] & _LOW_NIBBLE]
                high[i] = scale * levels[packed[i] >> _FOUR_BITS]


@kernel(exact=True)
def iq4_xs_scales(blocks, d, scales):
    """d·(scale - 32) of the eight parts: two high bits each in bytes 2 and 3, low nibbles in bytes 4 ... 7."""
    for n in range(blocks.shape[0]):
        for part in range(8):
            low = np.int64(blocks[n, 4 + part // 2]) >> part % 2 * 4 & 15
            high = np.int64(blocks[n, 2 + part // 4]) >> part % 4 * 2 & 3
            scales[n, part] = d[n, 0] * (np.float32(low | high << 4) - _THIRTY_TWO)

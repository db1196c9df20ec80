"""Decoders of IQ1, IQ2 and IQ3: N blocks of 256 values at a time, with every bit as in gguf-py.

All of them take blocks uint8 [N, block_bytes], d float32 [N, 1] and values float32 [N, 256]. A block's magnitudes and
signs are first looked up a word at a time (see `iq_grids`), then multiplied by the scale of their part, d·scale in
`steps` float32 [16]: the first loop is scalar, the second one vectorises.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_EIGHTH = np.float32(0.125)
_QUARTER = np.float32(0.25)
_HALF = np.float32(0.5)


@kernel(exact=True)
def _halfword(blocks, n, first):
    return np.int64(blocks[n, first]) | np.int64(blocks[n, first + 1]) << 8


@kernel(exact=True)
def _nibble(blocks, n, first, index):
    """The index-th of the nibbles from byte `first` on, the low one of each byte first."""
    return np.int64(blocks[n, first + index // 2]) >> index % 2 * 4 & 15


@kernel(exact=True)
def _store_signed(codes, signs, steps, row):
    """step·(±code): codes and signs (0 or -1) int8 [256] -> row float32 [256]."""
    for group in range(8):
        first = group * 32
        part, code, sign = row[first : first + 32], codes[first : first + 32], signs[first : first + 32]
        left, right = steps[2 * group], steps[2 * group + 1]
        for i in range(part.size):
            part[i] = (left if i < 16 else right) * np.float32(np.int8((code[i] ^ sign[i]) - sign[i]))


@kernel(exact=True)
def _store_shifted(codes, shifts, steps, row):
    """step·(code + shift)/8: codes and shifts int8 [256] -> row float32 [256]."""
    for group in range(8):
        first = group * 32
        part, code, shift = row[first : first + 32], codes[first : first + 32], shifts[first : first + 32]
        left, right = steps[2 * group], steps[2 * group + 1]
        for i in range(part.size):
            part[i] = (left if i < 16 else right) * (np.float32(np.int8(code[i] + shift[i])) * _EIGHTH)


@kernel(exact=True)
def decode_iq2_xxs(blocks, scales, grid, even_masks, values):
    """d, then for each 32 values four grid indices and four 7-bit signs with a 4-bit scale on top."""
    codes, signs, steps = np.empty(32, np.uint64), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for group in range(8):
            first = 2 + group * 8
            word = _halfword(blocks, n, first + 4) | _halfword(blocks, n, first + 6) << 16
            for k in range(4):
                codes[group * 4 + k] = grid[blocks[n, first + k]]
                signs[group * 4 + k] = even_masks[word >> 7 * k & 127]
            step = scales[n, 0] * (_HALF + np.float32(word >> 28)) * _QUARTER
            steps[2 * group], steps[2 * group + 1] = step, step
        _store_signed(codes.view(np.int8), signs.view(np.int8), steps, values[n])


@kernel(exact=True)
def decode_iq2_xs(blocks, scales, grid, even_masks, values):
    """d, 32 words of a 9-bit grid index and a 7-bit sign, 16 nibbles of scales."""
    codes, signs, steps = np.empty(32, np.uint64), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for k in range(32):
            word = _halfword(blocks, n, 2 + 2 * k)
            codes[k] = grid[word & 511]
            signs[k] = even_masks[word >> 9]
        for part in range(16):
            steps[part] = scales[n, 0] * (_HALF + np.float32(_nibble(blocks, n, 66, part))) * _QUARTER
        _store_signed(codes.view(np.int8), signs.view(np.int8), steps, values[n])


@kernel(exact=True)
def decode_iq2_s(blocks, scales, grid, masks, values):
    """d, 32 bytes of grid indices, 32 of signs, 8 of the indices' high bits, 16 nibbles of scales."""
    codes, signs, steps = np.empty(32, np.uint64), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for k in range(32):
            high = np.int64(blocks[n, 66 + k // 4]) >> k % 4 * 2 & 3
            codes[k] = grid[np.int64(blocks[n, 2 + k]) | high << 8]
            signs[k] = masks[blocks[n, 34 + k]]
        for part in range(16):
            steps[part] = scales[n, 0] * (_HALF + np.float32(_nibble(blocks, n, 74, part))) * _QUARTER
        _store_signed(codes.view(np.int8), signs.view(np.int8), steps, values[n])


@kernel(exact=True)
def decode_iq3_xxs(blocks, scales, grid, even_masks, values):
    """d, 64 bytes of grid indices, and for each 32 values four 7-bit signs with a 4-bit scale on top."""
    codes, signs, steps = np.empty(64, np.uint32), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for k in range(64):
            codes[k] = grid[blocks[n, 2 + k]]
        for group in range(8):
            first = 66 + group * 4
            word = _halfword(blocks, n, first) | _halfword(blocks, n, first + 2) << 16
            for k in range(4):
                signs[group * 4 + k] = even_masks[word >> 7 * k & 127]
            step = scales[n, 0] * (_HALF + np.float32(word >> 28)) * _HALF
            steps[2 * group], steps[2 * group + 1] = step, step
        _store_signed(codes.view(np.int8), signs.view(np.int8), steps, values[n])


@kernel(exact=True)
def decode_iq3_s(blocks, scales, grid, masks, values):
    """d, 64 bytes of grid indices, 8 of their high bits, 32 of signs, 8 nibbles of scales."""
    codes, signs, steps = np.empty(64, np.uint32), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for k in range(64):
            high = np.int64(blocks[n, 66 + k // 8]) >> k % 8 & 1
            codes[k] = grid[np.int64(blocks[n, 2 + k]) | high << 8]
        for k in range(32):
            signs[k] = masks[blocks[n, 74 + k]]
        for group in range(8):
            step = scales[n, 0] * np.float32(1 + 2 * _nibble(blocks, n, 106, group))
            steps[2 * group], steps[2 * group + 1] = step, step
        _store_signed(codes.view(np.int8), signs.view(np.int8), steps, values[n])


@kernel(exact=True)
def decode_iq1_s(blocks, scales, grid, shifts, values):
    """x = d·scale·(code ± 1/8): d, 32 bytes of grid indices, and for each 32 values their high bits, scale and shift.

    The grid holds eight times its codes, the shifts are +1 and -1: a sum of small whole numbers, then divided by 8.
    """
    codes, moved, steps = np.empty(32, np.uint64), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for group in range(8):
            word = _halfword(blocks, n, 34 + group * 2)
            for k in range(group * 4, group * 4 + 4):
                codes[k] = grid[np.int64(blocks[n, 2 + k]) | (word >> k % 4 * 3 & 7) << 8]
                moved[k] = shifts[word >> 15]
            step = scales[n, 0] * np.float32(2 * (word >> 12 & 7) + 1)
            steps[2 * group], steps[2 * group + 1] = step, step
        _store_shifted(codes.view(np.int8), moved.view(np.int8), steps, values[n])


@kernel(exact=True)
def decode_iq1_m(blocks, scales, grid, shifts, values):
    """As IQ1_S: 32 bytes of grid indices, 32 nibbles of high bits and shift, 4 words of four 3-bit scales each."""
    codes, moved, steps = np.empty(32, np.uint64), np.empty(32, np.uint64), np.empty(16, np.float32)
    for n in range(blocks.shape[0]):
        for k in range(32):
            bits = _nibble(blocks, n, 32, k)
            codes[k] = grid[np.int64(blocks[n, k]) | (bits & 7) << 8]
            moved[k] = shifts[bits >> 3]
        for part in range(16):
            scale = _halfword(blocks, n, 48 + part // 4 * 2) >> part % 4 * 3 & 7
            steps[part] = scales[n, 0] * np.float32(2 * scale + 1)
        _store_shifted(codes.view(np.int8), moved.view(np.int8), steps, values[n])

"""Q2_K, Q4_K and Q5_K blocks: codes of the values under the rounded scales and minima, and all codes into their bits.

The float16 steps of a block are left to the codec; see `k_encode`.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.k_affine_kernels import fit_group
from entrenar_core.codecs.k_lanes_kernels import INVERSE, MIN_CODE, OFFSET, SCALE_CODE, nearest
from entrenar_core.jit import kernel

_ZERO = np.float32(0.0)
_LEVELS2, _LEVELS4, _LEVELS5 = np.float32(3.0), np.float32(15.0), np.float32(31.0)
_LIMIT4, _LIMIT6 = np.float32(15.0), np.float32(63.0)


@kernel(exact=True)
def encode_q4_k(blocks, importance, factors, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 256] -> packed uint8 [N, 144] from byte 4, and their steps float32 [N, 2]; see `fit_group`."""
    for first in range(0, blocks.shape[0], 2):
        fit_group(blocks, first, importance, 32, _LEVELS4, _LIMIT6, 6, factors, values, weights, lanes, steps)
        for block in range(first, min(first + 2, blocks.shape[0])):
            lane = (block - first) * 8
            _store_scales6(lanes, lane, packed[block, 4:16])
            for pair in range(4):
                row = blocks[block, 64 * pair : 64 * pair + 64]
                _store_nibbles(row, lanes, lane + 2 * pair, packed[block, 16 + 32 * pair : 48 + 32 * pair])


@kernel(exact=True)
def encode_q5_k(blocks, importance, factors, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 256] -> packed uint8 [N, 176] from byte 4, and their steps float32 [N, 2]; see `fit_group`."""
    for first in range(0, blocks.shape[0], 2):
        fit_group(blocks, first, importance, 32, _LEVELS5, _LIMIT6, 6, factors, values, weights, lanes, steps)
        for block in range(first, min(first + 2, blocks.shape[0])):
            lane = (block - first) * 8
            _store_scales6(lanes, lane, packed[block, 4:16])
            packed[block, 16:48] = 0
            for pair in range(4):
                row = blocks[block, 64 * pair : 64 * pair + 64]
                nibbles = packed[block, 48 + 32 * pair : 80 + 32 * pair]
                _store_fifths(row, lanes, lane + 2 * pair, nibbles, packed[block, 16:48], 2 * pair)


@kernel(exact=True)
def encode_q2_k(blocks, importance, factors, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 256] -> packed uint8 [N, 84] up to byte 80, and steps float32 [N, 2]; see `fit_group`."""
    for block in range(blocks.shape[0]):
        fit_group(blocks, block, importance, 16, _LEVELS2, _LIMIT4, 3, factors, values, weights, lanes, steps)
        for lane in range(16):
            packed[block, lane] = np.int32(lanes[SCALE_CODE, lane]) | np.int32(lanes[MIN_CODE, lane]) << 4
        for half in range(2):
            for part in range(2):
                row = blocks[block, 128 * half + 16 * part : 128 * half + 112 + 16 * part]
                start = 16 + 32 * half + 16 * part
                _store_pairs(row, lanes, 8 * half + part, packed[block, start : start + 16])


@kernel(exact=True)
def _code(x, minimum, inverse, levels):
    return np.int32(min(max(nearest((x + minimum) * inverse), _ZERO), levels))


@kernel(exact=True, inline=True)
def _store_scales6(lanes, lane, target):
    """Eight scale and eight minimum codes of 6 bits into 12 bytes: four of each plain, the rest in nibbles and tops."""
    for j in range(4):
        scale, minimum = np.int32(lanes[SCALE_CODE, lane + j]), np.int32(lanes[MIN_CODE, lane + j])
        scale_4, minimum_4 = np.int32(lanes[SCALE_CODE, lane + j + 4]), np.int32(lanes[MIN_CODE, lane + j + 4])
        target[j] = scale | scale_4 >> 4 << 6
        target[j + 4] = minimum | minimum_4 >> 4 << 6
        target[j + 8] = scale_4 & 15 | (minimum_4 & 15) << 4


@kernel(exact=True, inline=True)
def _store_nibbles(row, lanes, lane, target):
    """Two parts of 32 values into the low and high halves of 32 bytes."""
    inverse, minimum = lanes[INVERSE, lane], lanes[OFFSET, lane]
    inverse_1, minimum_1 = lanes[INVERSE, lane + 1], lanes[OFFSET, lane + 1]
    first, second = row[0:32], row[32:64]
    for i in range(32):
        low = _code(first[i], minimum, inverse, _LEVELS4)
        high = _code(second[i], minimum_1, inverse_1, _LEVELS4)
        target[i] = low | high << 4


@kernel(exact=True, inline=True)
def _store_fifths(row, lanes, lane, nibbles, tops, bit):
    """As `_store_nibbles`, for codes of 5 bits; the fifth ones become bits `bit` and `bit` + 1 of 32 other bytes."""
    inverse, minimum = lanes[INVERSE, lane], lanes[OFFSET, lane]
    inverse_1, minimum_1 = lanes[INVERSE, lane + 1], lanes[OFFSET, lane + 1]
    first, second = row[0:32], row[32:64]
    for i in range(32):
        low = _code(first[i], minimum, inverse, _LEVELS5)
        high = _code(second[i], minimum_1, inverse_1, _LEVELS5)
        nibbles[i] = low & 15 | (high & 15) << 4
        tops[i] |= low >> 4 << bit | high >> 4 << bit + 1


@kernel(exact=True, inline=True)
def _store_pairs(row, lanes, lane, target):
    """Four parts of 16 values, 32 apart and their lanes 2 apart, into 16 bytes."""
    inverse, minimum = lanes[INVERSE, lane], lanes[OFFSET, lane]
    inverse_1, minimum_1 = lanes[INVERSE, lane + 2], lanes[OFFSET, lane + 2]
    inverse_2, minimum_2 = lanes[INVERSE, lane + 4], lanes[OFFSET, lane + 4]
    inverse_3, minimum_3 = lanes[INVERSE, lane + 6], lanes[OFFSET, lane + 6]
    first, second, third, fourth = row[0:16], row[32:48], row[64:80], row[96:112]
    for i in range(16):
        code = _code(first[i], minimum, inverse, _LEVELS2) | _code(second[i], minimum_1, inverse_1, _LEVELS2) << 2
        code |= _code(third[i], minimum_2, inverse_2, _LEVELS2) << 4
        target[i] = code | _code(fourth[i], minimum_3, inverse_3, _LEVELS2) << 6

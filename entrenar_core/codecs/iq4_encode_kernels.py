"""IQ4_NL and IQ4_XS: x = scale·level in parts of 32 values, level one of 16 uneven ones; search, rounding and packing.

For each part: a few levels that the value of largest magnitude might get give scales, scales give the levels of all
values, and these the scale of least weighted squared error; the best one wins, and is used once more. Errors weigh the
part's mean square + x², or importance·sqrt(2·mean square + x²) of the block as in llama.cpp.

Sixteen parts are worked on side by side, as in `k_lanes_kernels`. A level is found by comparing with all 15 borders:
vector instructions do that sooner than a search with branches.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from entrenar_core.codecs.k_lanes_kernels import (
    ENERGY,
    INVERSE,
    LANES,
    SCALE,
    SCALE_CODE,
    SUM_QQ,
    SUM_QY,
    inverse_or_zero,
    invert_row,
    keep_better_scale,
    load_importance,
    load_lanes,
    make_extreme,
    measure_lanes,
    round_row,
    rounded_to_half,
    start_from_extreme,
    weigh_by_importance,
    weigh_by_square,
)
from entrenar_core.jit import kernel

_PART = 32
_ZERO = np.float32(0.0)
_LOWEST, _HIGHEST = np.float32(-32.0), np.float32(31.0)
_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_FIRST = np.float32(_LEVELS[0])
_BORDERS = tuple(np.float32((low + high) / 2) for low, high in pairwise(_LEVELS))
_RISES = tuple(np.float32(high - low) for low, high in pairwise(_LEVELS))


@kernel(exact=True)
def encode_iq4_nl(blocks, importance, targets, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 32] -> packed uint8 [N, 18] from byte 2, and their scales float32 [N, 1]; see `_fit`."""
    for first in range(0, blocks.shape[0], LANES):
        _fit(blocks, first, importance, 1, targets, values, weights, lanes)
        for lane in range(min(LANES, blocks.shape[0] - first)):
            scale = lanes[SCALE, lane]
            half = rounded_to_half(abs(scale))
            scale = -half if scale < _ZERO else half
            steps[first + lane, 0] = scale + lanes[ENERGY, lane] * _ZERO  # NaN and infinity stay
            _store_codes(blocks[first + lane], inverse_or_zero(scale), packed[first + lane, 2:18])


@kernel(exact=True)
def encode_iq4_xs(blocks, importance, targets, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 256] -> packed uint8 [N, 136] from byte 2, and their steps float32 [N, 1]; see `_fit`."""
    for first in range(0, blocks.shape[0], 2):
        _fit(blocks, first, importance, 8, targets, values, weights, lanes)
        for block in range(first, min(first + 2, blocks.shape[0])):
            start = 8 * (block - first)
            step = round_row(lanes[SCALE], lanes[SCALE_CODE], lanes[SUM_QQ], start, 8, _LOWEST, _HIGHEST, 4)
            for lane in range(start, start + 8):
                step += lanes[ENERGY, lane] * _ZERO
            steps[block, 0] = step
            _store_scales(lanes, start, packed[block, 2:8])
            invert_row(lanes[SCALE], lanes[INVERSE])
            for part in range(8):
                row = blocks[block, 32 * part : 32 * part + 32]
                _store_codes(row, lanes[INVERSE, start + part], packed[block, 8 + 16 * part : 24 + 16 * part])


@kernel(exact=True)
def _fit(blocks, first, importance, per_block, targets, values, weights, lanes):
    """The best scales of the 16 parts from block `first` on, in lanes[SCALE].

    Args:
        blocks: float32 [N, 32 · per_block].
        importance: float32 [M, 32 · per_block]; none when M is 0.
        targets: float32, what the value of largest magnitude becomes with each scale that is tried.
        values, weights: scratch float32 [32, 16].
    """
    load_lanes(blocks, first, _PART, values)
    measure_lanes(values, _PART, lanes)
    if importance.shape[0] > 0:
        load_importance(importance, first, _PART, weights)
        weigh_by_importance(values, _PART, per_block, weights, lanes)
    else:
        weigh_by_square(values, _PART, weights, lanes)
    _search(values, weights, targets, lanes)


@kernel(exact=True)
def _search(values, weights, targets, lanes):
    start_from_extreme(lanes, _FIRST)
    for n in range(targets.size):
        make_extreme(lanes, targets[n])
        _sum_levels(values, weights, lanes)
        keep_better_scale(lanes)
    invert_row(lanes[SCALE], lanes[INVERSE])
    _sum_levels(values, weights, lanes)
    keep_better_scale(lanes)


@kernel(exact=True)
def _level(y):
    """The level nearest to y."""
    level = _FIRST
    for k in range(15):
        level += _RISES[k] if y > _BORDERS[k] else _ZERO
    return level


@kernel(exact=True)
def _sum_levels(values, weights, lanes):
    """Levels of x·inverse, and their weighted sums: of squares and of products with x."""
    inverse, sum_qq, sum_qx = lanes[INVERSE], lanes[SUM_QQ], lanes[SUM_QY]
    for lane in range(LANES):
        sum_qq[lane] = _ZERO
        sum_qx[lane] = _ZERO
    for i in range(_PART):
        for lane in range(LANES):
            level = _level(values[i, lane] * inverse[lane])
            weighted = weights[i, lane] * level
            sum_qq[lane] += weighted * level
            sum_qx[lane] += weighted * values[i, lane]


@kernel(exact=True)
def _code(y):
    """The number of the level nearest to y."""
    code = np.int32(0)
    for k in range(15):
        code += np.int32(y > _BORDERS[k])
    return code


@kernel(exact=True)
def _store_codes(row, inverse, target):
    """32 codes into 16 bytes; the second half is in the high nibbles."""
    first, second = row[0:16], row[16:32]
    for i in range(16):
        target[i] = _code(first[i] * inverse) | _code(second[i] * inverse) << 4


@kernel(exact=True)
def _store_scales(lanes, start, target):
    """Eight scale codes, counted from -32, into 6 bytes: the high two bits of each in 2, then nibbles in 4."""
    tops = np.int32(0)
    for pair in range(4):
        even = np.int32(lanes[SCALE_CODE, start + 2 * pair]) + 32
        odd = np.int32(lanes[SCALE_CODE, start + 2 * pair + 1]) + 32
        target[2 + pair] = even & 15 | (odd & 15) << 4
        tops |= (even >> 4 | odd >> 4 << 2) << 4 * pair
    target[0] = tops & 255
    target[1] = tops >> 8

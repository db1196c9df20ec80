"""Q3_K and Q6_K: x = scale·code with signed codes in parts of 16 values; search, rounding and packing.

For each part: a few steps around (value of largest magnitude) / -(levels), where levels is 4 or 32, give codes; codes
give the scale of least weighted squared error; the best one wins, and is used once more as a step. Scales are rounded
to signed codes of the super-block's float16 step. Errors weigh the part's mean square + x² (llama.cpp takes x² alone,
which loses 1 to 2 % more), or the importance (Q6_K), or importance·sqrt(2·mean square + x²) of the super-block (Q3_K).
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.k_lanes_kernels import (
    ENERGY,
    GAIN,
    INVERSE,
    LANES,
    SCALE,
    SCALE_CODE,
    SUM_QQ,
    SUM_QY,
    SUM_W,
    SUM_WY,
    inverse_or_zero,
    invert_row,
    keep_better_scale,
    load_importance,
    load_lanes,
    make_extreme,
    measure_lanes,
    nearest,
    round_row,
    start_from_extreme,
    weigh_by_importance,
    weigh_by_square,
)
from entrenar_core.jit import kernel

_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_LEVELS3, _LEVELS6 = np.float32(4.0), np.float32(32.0)
_LIMIT6, _LIMIT8 = np.float32(32.0), np.float32(128.0)


@kernel(exact=True)
def encode_q6_k(blocks, importance, factors, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 256] -> packed uint8 [N, 210] up to byte 208, and their steps float32 [N, 1]; see `_fit`."""
    for block in range(blocks.shape[0]):
        _fit(blocks, block, importance, False, _LEVELS6, _LIMIT8, factors, values, weights, lanes, steps)
        for lane in range(LANES):
            packed[block, 192 + lane] = np.int32(lanes[SCALE_CODE, lane]) & 255
        for half in range(2):
            for part in range(2):
                row = blocks[block, 128 * half + 16 * part : 128 * half + 112 + 16 * part]
                low, top = 64 * half + 16 * part, 128 + 32 * half + 16 * part
                lane = 8 * half + part
                _store6(row, lanes, lane, packed[block, low : low + 48], packed[block, top : top + 16])


@kernel(exact=True)
def encode_q3_k(blocks, importance, factors, values, weights, lanes, steps, packed):
    """Blocks float32 [N, 256] -> packed uint8 [N, 110] up to byte 108, and their steps float32 [N, 1]; see `_fit`."""
    for block in range(blocks.shape[0]):
        _fit(blocks, block, importance, True, _LEVELS3, _LIMIT6, factors, values, weights, lanes, steps)
        _store_signed_scales(lanes, packed[block, 96:108])
        packed[block, 0:32] = 0
        for half in range(2):
            for part in range(2):
                row = blocks[block, 128 * half + 16 * part : 128 * half + 112 + 16 * part]
                low, top = 32 + 32 * half + 16 * part, 16 * part
                lane = 8 * half + part
                _store3(row, lanes, lane, packed[block, low : low + 16], packed[block, top : top + 16], 4 * half)


@kernel(exact=True, inline=True)
def _fit(blocks, block, importance, careful, levels, limit, factors, values, weights, lanes, steps):
    """Scale codes (-limit ... limit-1) of the 16 parts of a block, in lanes[SCALE_CODE]; 1/scale in lanes[INVERSE].

    Args:
        blocks: float32 [N, 256].
        importance: float32 [M, 256]; none when M is 0.
        careful: whether the importance of a value counts more where the value is large, and scales are rounded to the
            one of two codes that loses less in values: what a type of few bits needs.
        levels: codes of values are -levels ... levels-1; a float32, and so is `limit`.
        factors: float32, added to `levels` for each step that is tried.
        values, weights: scratch float32 [16, 16].
        steps: float32 [N, 1], set to the step of scales, representable as a float16 unless too large; NaN where a
            value of the block is not finite.
    """
    load_lanes(blocks, block, LANES, values)
    measure_lanes(values, LANES, lanes)
    if importance.shape[0] > 0:
        load_importance(importance, block, LANES, weights)
        if careful:
            weigh_by_importance(values, LANES, LANES, weights, lanes)
    else:
        weigh_by_square(values, LANES, weights, lanes)
    _search(values, weights, levels, factors, lanes)
    if careful:
        step = _round_carefully(values, weights, levels, limit, lanes)
    else:
        step = round_row(lanes[SCALE], lanes[SCALE_CODE], lanes[SUM_QQ], 0, LANES, -limit, limit - _ONE, 1)
    invert_row(lanes[SCALE], lanes[INVERSE])
    for lane in range(LANES):
        step += lanes[ENERGY, lane] * _ZERO  # NaN and infinity stay
    steps[block, 0] = step


@kernel(exact=True, inline=True)
def _search(values, weights, levels, factors, lanes):
    """The best scale of each lane."""
    start_from_extreme(lanes, -levels)
    for n in range(factors.size):
        make_extreme(lanes, -(levels + factors[n]))
        _sum_codes(values, weights, levels, lanes)
        keep_better_scale(lanes)
    invert_row(lanes[SCALE], lanes[INVERSE])
    _sum_codes(values, weights, levels, lanes)
    keep_better_scale(lanes)


@kernel(exact=True, inline=True)
def _sum_codes(values, weights, levels, lanes):
    """Codes of x·inverse, and their weighted sums: of q² and q·x."""
    inverse, sum_qq, sum_qx = lanes[INVERSE], lanes[SUM_QQ], lanes[SUM_QY]
    for lane in range(LANES):
        sum_qq[lane] = _ZERO
        sum_qx[lane] = _ZERO
    largest = levels - _ONE
    for i in range(0, LANES, 4):
        for lane in range(LANES):
            x_0, x_1, x_2, x_3 = values[i, lane], values[i + 1, lane], values[i + 2, lane], values[i + 3, lane]
            q_0 = min(max(nearest(x_0 * inverse[lane]), -levels), largest)
            q_1 = min(max(nearest(x_1 * inverse[lane]), -levels), largest)
            q_2 = min(max(nearest(x_2 * inverse[lane]), -levels), largest)
            q_3 = min(max(nearest(x_3 * inverse[lane]), -levels), largest)
            wq_0, wq_1 = weights[i, lane] * q_0, weights[i + 1, lane] * q_1
            wq_2, wq_3 = weights[i + 2, lane] * q_2, weights[i + 3, lane] * q_3
            sum_qq[lane] += (wq_0 * q_0 + wq_1 * q_1) + (wq_2 * q_2 + wq_3 * q_3)
            sum_qx[lane] += (wq_0 * x_0 + wq_1 * x_1) + (wq_2 * x_2 + wq_3 * x_3)


@kernel(exact=True, inline=True)
def _round_carefully(values, weights, levels, limit, lanes):
    """As `round_row`, and then the code of each scale, or the one on its other side, whichever gives the lower error.

    Of a scale far below the largest one in its block little is left after rounding, and the nearest is often not best:
    a scale that is too small cuts values off.
    """
    exact, other = lanes[SUM_W], lanes[SUM_WY]
    scale, code, gain, inverse = lanes[SCALE], lanes[SCALE_CODE], lanes[GAIN], lanes[INVERSE]
    sum_qq, sum_qx = lanes[SUM_QQ], lanes[SUM_QY]
    for lane in range(LANES):
        exact[lane] = scale[lane]
    step = round_row(scale, code, sum_qq, 0, LANES, -limit, limit - _ONE, 3)
    invert_row(scale, inverse)
    _sum_codes(values, weights, levels, lanes)
    step_inverse = inverse_or_zero(step)
    for lane in range(LANES):
        gain[lane] = scale[lane] * (_TWO * sum_qx[lane] - scale[lane] * sum_qq[lane])
        side = _ONE if exact[lane] * step_inverse > code[lane] else -_ONE
        other[lane] = min(max(code[lane] + side, -limit), limit - _ONE)
        exact[lane] = step * other[lane]
    invert_row(exact, inverse)
    _sum_codes(values, weights, levels, lanes)
    for lane in range(LANES):
        better = exact[lane] * (_TWO * sum_qx[lane] - exact[lane] * sum_qq[lane]) > gain[lane]
        code[lane] = other[lane] if better else code[lane]
        scale[lane] = exact[lane] if better else scale[lane]
    return step


@kernel(exact=True)
def _code(x, inverse, levels):
    """The code of x, counted from 0."""
    return np.int32(min(max(nearest(x * inverse), -levels), levels - _ONE) + levels)


@kernel(exact=True, inline=True)
def _store6(row, lanes, lane, nibbles, tops):
    """Four parts of 16 values, 32 apart and their lanes 2 apart: low nibbles into bytes 0 and 32 on, tops into 16."""
    inverse, inverse_1 = lanes[INVERSE, lane], lanes[INVERSE, lane + 2]
    inverse_2, inverse_3 = lanes[INVERSE, lane + 4], lanes[INVERSE, lane + 6]
    first, second, third, fourth = row[0:16], row[32:48], row[64:80], row[96:112]
    here, there = nibbles[0:16], nibbles[32:48]
    for i in range(16):
        a, b = _code(first[i], inverse, _LEVELS6), _code(second[i], inverse_1, _LEVELS6)
        c, d = _code(third[i], inverse_2, _LEVELS6), _code(fourth[i], inverse_3, _LEVELS6)
        here[i] = a & 15 | (c & 15) << 4
        there[i] = b & 15 | (d & 15) << 4
        tops[i] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6


@kernel(exact=True, inline=True)
def _store3(row, lanes, lane, pairs, tops, bit):
    """Four parts of 16 values, as in `_store6`: two bits each into 16 bytes, third bits from bit `bit` on of others."""
    inverse, inverse_1 = lanes[INVERSE, lane], lanes[INVERSE, lane + 2]
    inverse_2, inverse_3 = lanes[INVERSE, lane + 4], lanes[INVERSE, lane + 6]
    first, second, third, fourth = row[0:16], row[32:48], row[64:80], row[96:112]
    for i in range(16):
        a, b = _code(first[i], inverse, _LEVELS3), _code(second[i], inverse_1, _LEVELS3)
        c, d = _code(third[i], inverse_2, _LEVELS3), _code(fourth[i], inverse_3, _LEVELS3)
        pairs[i] = a & 3 | (b & 3) << 2 | (c & 3) << 4 | (d & 3) << 6
        tops[i] |= (a >> 2 | b >> 2 << 1 | c >> 2 << 2 | d >> 2 << 3) << bit


@kernel(exact=True, inline=True)
def _store_signed_scales(lanes, target):
    """Sixteen scale codes, counted from -32, into 12 bytes: nibbles in 8, two more bits each in 4."""
    for j in range(4):
        a, b = np.int32(lanes[SCALE_CODE, j]) + 32, np.int32(lanes[SCALE_CODE, j + 4]) + 32
        c, d = np.int32(lanes[SCALE_CODE, j + 8]) + 32, np.int32(lanes[SCALE_CODE, j + 12]) + 32
        target[j] = a & 15 | (c & 15) << 4
        target[j + 4] = b & 15 | (d & 15) << 4
        target[j + 8] = a >> 4 | b >> 4 << 2 | c >> 4 << 4 | d >> 4 << 6

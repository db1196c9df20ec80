"""Search for scales and minima of Q2_K, Q4_K and Q5_K: x = scale·code - minimum in parts of 16 or 32 values.

For each part: a few steps around (largest - least) / (levels - 1), each from the best minimum so far, give codes; codes
give the scale and the minimum of least weighted squared error in closed form; the best pair wins, and is used once more
as a step. Then scales are rounded to whole multiples of the super-block's float16 step, the minima are fitted anew to
the rounded scales and rounded too.

Errors weigh sqrt(mean square) + |x| of the part, or importance·sqrt(2·mean square + x²) of the super-block, as in
llama.cpp. Values are kept as y = x - least, so that sums of squares do not cancel.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.k_lanes_kernels import (
    ENERGY,
    GAIN,
    INVERSE,
    LANES,
    LOW,
    MIN_CODE,
    OFFSET,
    SCALE,
    SCALE_CODE,
    SUM_Q,
    SUM_QQ,
    SUM_QY,
    SUM_W,
    SUM_WY,
    SUPER_BLOCK,
    WIDTH,
    invert_row,
    load_importance,
    load_lanes,
    measure_lanes,
    nearest,
    round_row,
    weigh_by_importance,
)
from entrenar_core.jit import kernel

_ZERO, _TWO = np.float32(0.0), np.float32(2.0)
_DETERMINED = np.float32(1e-5)  # smaller, relatively: all codes are the same, and what is left is rounding


@kernel(exact=True, inline=True)
def fit_group(blocks, first, importance, size, levels, limit, tries, factors, values, weights, lanes, steps):
    """Scale and minimum codes (0 ... limit) of the 16 parts from block `first` on, in lanes[SCALE_CODE, MIN_CODE].

    Args:
        blocks: float32 [N, 256].
        importance: float32 [M, 256]; none when M is 0.
        size, levels, limit: values in a part; largest code of a value; largest code of a scale (the last two float32).
        tries: how many steps of scales and of minima are tried; see `round_row`.
        factors: float32, added to `levels` for each step that is tried.
        values, weights: scratch float32 [size, 16].
        steps: float32 [N, 2], set to the steps of scales and minima, both representable as float16 unless too large;
            NaN where a value of the block is not finite.
    """
    load_lanes(blocks, first, size, values)
    measure_lanes(values, size, lanes)
    if importance.shape[0] > 0:
        load_importance(importance, first, size, weights)
        weigh_by_importance(values, size, SUPER_BLOCK // size, weights, lanes)
    else:
        _weigh_by_magnitude(values, size, weights, lanes)
    _subtract_least(values, size, weights, lanes)
    _search(values, weights, size, levels, factors, lanes)
    _weigh_scales(lanes)
    per_block = SUPER_BLOCK // size
    for start in range(0, LANES, per_block):
        block = first + start // per_block
        scale_step = round_row(lanes[SCALE], lanes[SCALE_CODE], lanes[GAIN], start, per_block, _ZERO, limit, tries)
        if block < steps.shape[0]:
            steps[block, 0] = scale_step
    _refit_minima(values, weights, size, levels, lanes)
    for start in range(0, LANES, per_block):
        block = first + start // per_block
        min_step = round_row(lanes[OFFSET], lanes[MIN_CODE], lanes[SUM_W], start, per_block, _ZERO, limit, tries)
        for lane in range(start, start + per_block):
            min_step += lanes[ENERGY, lane] * _ZERO  # NaN and infinity stay
        if block < steps.shape[0]:
            steps[block, 1] = min_step


@kernel(exact=True, inline=True)
def _weigh_by_magnitude(values, size, weights, lanes):
    root = lanes[INVERSE]
    count = np.float32(size)
    for lane in range(LANES):
        root[lane] = np.sqrt(lanes[ENERGY, lane] / count)
    for i in range(size):
        for lane in range(LANES):
            weights[i, lane] = root[lane] + abs(values[i, lane])


@kernel(exact=True, inline=True)
def _subtract_least(values, size, weights, lanes):
    """values -= least of the lane; the sums of weights and of weighted values."""
    low, sum_w, sum_wy = lanes[LOW], lanes[SUM_W], lanes[SUM_WY]
    for lane in range(LANES):
        sum_w[lane] = _ZERO
        sum_wy[lane] = _ZERO
    for i in range(0, size, 4):
        for lane in range(LANES):
            w_0, w_1, w_2, w_3 = weights[i, lane], weights[i + 1, lane], weights[i + 2, lane], weights[i + 3, lane]
            y_0, y_1 = values[i, lane] - low[lane], values[i + 1, lane] - low[lane]
            y_2, y_3 = values[i + 2, lane] - low[lane], values[i + 3, lane] - low[lane]
            values[i, lane], values[i + 1, lane], values[i + 2, lane], values[i + 3, lane] = y_0, y_1, y_2, y_3
            sum_w[lane] += (w_0 + w_1) + (w_2 + w_3)
            sum_wy[lane] += (w_0 * y_0 + w_1 * y_1) + (w_2 * y_2 + w_3 * y_3)


@kernel(exact=True, inline=True)
def _search(values, weights, size, levels, factors, lanes):
    """The best scale and offset (from the least value) of each lane."""
    width, inverse, offset, scale = lanes[WIDTH], lanes[INVERSE], lanes[OFFSET], lanes[SCALE]
    for lane in range(LANES):
        lanes[GAIN, lane] = _ZERO
        scale[lane] = width[lane] / levels
        offset[lane] = _ZERO
    for n in range(factors.size):
        for lane in range(LANES):
            rest = width[lane] - offset[lane]
            quotient = (levels + factors[n]) / rest
            inverse[lane] = quotient if rest > _ZERO else _ZERO
        _sum_codes(values, weights, size, levels, lanes)
        _keep_better(lanes)
    invert_row(scale, inverse)
    _sum_codes(values, weights, size, levels, lanes)
    _keep_better(lanes)


@kernel(exact=True, inline=True)
def _sum_codes(values, weights, size, levels, lanes):
    """Codes of (y - offset)·inverse, and their weighted sums: of q, q² and q·y."""
    inverse, offset = lanes[INVERSE], lanes[OFFSET]
    sum_q, sum_qq, sum_qy = lanes[SUM_Q], lanes[SUM_QQ], lanes[SUM_QY]
    for lane in range(LANES):
        sum_q[lane] = _ZERO
        sum_qq[lane] = _ZERO
        sum_qy[lane] = _ZERO
    for i in range(0, size, 4):
        for lane in range(LANES):
            y_0, y_1, y_2, y_3 = values[i, lane], values[i + 1, lane], values[i + 2, lane], values[i + 3, lane]
            q_0 = _clamped((y_0 - offset[lane]) * inverse[lane], levels)
            q_1 = _clamped((y_1 - offset[lane]) * inverse[lane], levels)
            q_2 = _clamped((y_2 - offset[lane]) * inverse[lane], levels)
            q_3 = _clamped((y_3 - offset[lane]) * inverse[lane], levels)
            wq_0, wq_1 = weights[i, lane] * q_0, weights[i + 1, lane] * q_1
            wq_2, wq_3 = weights[i + 2, lane] * q_2, weights[i + 3, lane] * q_3
            sum_q[lane] += (wq_0 + wq_1) + (wq_2 + wq_3)
            sum_qq[lane] += (wq_0 * q_0 + wq_1 * q_1) + (wq_2 * q_2 + wq_3 * q_3)
            sum_qy[lane] += (wq_0 * y_0 + wq_1 * y_1) + (wq_2 * y_2 + wq_3 * y_3)


@kernel(exact=True)
def _clamped(x, levels):
    """The nearest code, 0 ... levels."""
    return min(max(nearest(x), _ZERO), levels)


@kernel(exact=True, inline=True)
def _keep_better(lanes):
    """The scale and offset of least squares for the codes that were summed, where they lower the error.

    The gain is the sum of squares less the error. No minimum is above zero: the format has no sign for it.
    """
    low, sum_w, sum_wy = lanes[LOW], lanes[SUM_W], lanes[SUM_WY]
    sum_q, sum_qq, sum_qy = lanes[SUM_Q], lanes[SUM_QQ], lanes[SUM_QY]
    gain, scale, offset = lanes[GAIN], lanes[SCALE], lanes[OFFSET]
    for lane in range(LANES):
        # Every quotient is computed whether it is used or not: a condition with a division in it is a branch.
        mean_q = sum_q[lane] / sum_w[lane]
        mean_y = sum_wy[lane] / sum_w[lane]
        spread = sum_qq[lane] - mean_q * sum_q[lane]
        fitted = (sum_qy[lane] - mean_q * sum_wy[lane]) / spread
        at_zero = (sum_qy[lane] + low[lane] * sum_q[lane]) / sum_qq[lane]
        fitted_offset = mean_y - fitted * mean_q
        above = fitted_offset + low[lane] > _ZERO
        new_offset = -low[lane] if above else fitted_offset
        new_scale = at_zero if above else fitted
        new_gain = new_scale * (_TWO * (sum_qy[lane] - new_offset * sum_q[lane]) - new_scale * sum_qq[lane])
        new_gain += new_offset * (_TWO * sum_wy[lane] - new_offset * sum_w[lane])
        old_gain, old_scale, old_offset = gain[lane], scale[lane], offset[lane]
        better = (new_gain > old_gain) & (spread > _DETERMINED * sum_qq[lane])
        gain[lane] = new_gain if better else old_gain
        scale[lane] = new_scale if better else old_scale
        offset[lane] = new_offset if better else old_offset


@kernel(exact=True, inline=True)
def _weigh_scales(lanes):
    """lanes[GAIN] becomes what a unit of error of each scale costs, once the minimum has been fitted to it."""
    for lane in range(LANES):
        weight = lanes[SUM_W, lane]
        quotient = lanes[SUM_Q, lane] / weight
        mean = quotient if weight > _ZERO else _ZERO
        lanes[GAIN, lane] = lanes[SUM_QQ, lane] - mean * lanes[SUM_Q, lane]


@kernel(exact=True, inline=True)
def _refit_minima(values, weights, size, levels, lanes):
    """lanes[OFFSET] becomes the minimum (not below 0) that fits the rounded scales best, for the codes they give."""
    low, sum_w, sum_wy, sum_q = lanes[LOW], lanes[SUM_W], lanes[SUM_WY], lanes[SUM_Q]
    scale, offset = lanes[SCALE], lanes[OFFSET]
    invert_row(scale, lanes[INVERSE])
    _sum_codes(values, weights, size, levels, lanes)
    for lane in range(LANES):
        fitted = (sum_wy[lane] - scale[lane] * sum_q[lane]) / sum_w[lane]
        # A part without weight keeps what it has.
        minimum = -(low[lane] + (fitted if sum_w[lane] > _ZERO else offset[lane]))
        offset[lane] = max(minimum, _ZERO)

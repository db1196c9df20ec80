"""Sixteen parts of blocks side by side: how the encoders of K-types become vector instructions without fast-math.

A part (16 or 32 values with a scale of its own) is a lane: ``values[i, lane]`` is the i-th value of a part. Sums over a
part are then sums over i of whole rows, in one fixed order, and need no reduction across lanes. A group of 16 lanes is
one block of 16 parts, two of 8 or sixteen of 1; for blocks that do not exist, the last one is taken again.

Sums are kept in memory (LLVM cannot tell that the arrays do not overlap), so loops take four values at a time and go
through memory once for all of them: sizes of parts are multiples of 4.

What is known of each lane stands in the rows of `lanes` float32 [LANE_ROWS, 16]. All scratch memory comes from
`aligned_floats`: a row that crosses a cache line costs half of the speed.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

LANES = 16
SUPER_BLOCK = 256

LOW, WIDTH, ENERGY, SUM_W, SUM_WY, INVERSE, SUM_Q, SUM_QQ, SUM_QY, GAIN, SCALE, OFFSET, SCALE_CODE, MIN_CODE = range(14)
"""Rows of `lanes`. The symmetric types keep the value of largest magnitude in WIDTH."""

_ZERO, _ONE, _TWO = np.float32(0.0), np.float32(1.0), np.float32(2.0)
_ROUND = np.float32(12582912.0)
_SMALLEST_NORMAL = np.float32(2.0**-14)
_SMALLEST_HALF = np.float32(2.0**-24)
_THREE_QUARTERS = np.float32(0.75)  # of numbers from 1/2 to 1 the last bit is 2^-24
_SPLITTER = np.float32(8193.0)


@kernel(exact=True)
def nearest(x):
    """The nearest whole number, ties to even, for |x| < 2^22: float32 numbers of this size have no fraction."""
    return (x + _ROUND) - _ROUND


@kernel(exact=True)
def rounded_to_half(x):
    """float32 x >= 0 to the nearest float16; what is too large for one keeps its size.

    Above 2^-14 by Dekker's splitting, which leaves 24 - 13 bits; below, to whole multiples of 2^-24.
    """
    if x < _SMALLEST_NORMAL:
        return (x + _THREE_QUARTERS) - _THREE_QUARTERS
    spread = x * _SPLITTER
    return spread - (spread - x)


@kernel(exact=True, inline=True)
def load_lanes(blocks, first, size, values):
    """Parts of `size` values of blocks float32 [N, B], from block `first` on -> values float32 [size, 16]."""
    per_block = blocks.shape[1] // size
    for lane in range(LANES):
        block = min(first + lane // per_block, blocks.shape[0] - 1)
        part = blocks[block, (lane % per_block) * size : (lane % per_block + 1) * size]
        for i in range(size):
            values[i, lane] = part[i]


@kernel(exact=True, inline=True)
def load_importance(importance, first, size, weights):
    """The importance float32 [M, B] of the same parts; block n has that of n modulo M."""
    per_block = importance.shape[1] // size
    for lane in range(LANES):
        block = (first + lane // per_block) % importance.shape[0]
        part = importance[block, (lane % per_block) * size : (lane % per_block + 1) * size]
        for i in range(size):
            weights[i, lane] = part[i]


@kernel(exact=True, inline=True)
def measure_lanes(values, size, lanes):
    """Least value (at most 0), largest less least, and sum of squares of each lane."""
    low, width, energy = lanes[LOW], lanes[WIDTH], lanes[ENERGY]
    for lane in range(LANES):
        low[lane] = _ZERO
        width[lane] = values[0, lane]
        energy[lane] = _ZERO
    for i in range(0, size, 4):
        for lane in range(LANES):
            x_0, x_1, x_2, x_3 = values[i, lane], values[i + 1, lane], values[i + 2, lane], values[i + 3, lane]
            low[lane] = min(low[lane], x_0, x_1, x_2, x_3)
            width[lane] = max(width[lane], x_0, x_1, x_2, x_3)
            energy[lane] += (x_0 * x_0 + x_1 * x_1) + (x_2 * x_2 + x_3 * x_3)
    for lane in range(LANES):
        width[lane] -= low[lane]


@kernel(exact=True, inline=True)
def block_mean_squares(lanes, size, per_block, factor, mean_squares):
    """factor · the mean square of the block of each lane, in a row of `lanes`."""
    energy = lanes[ENERGY]
    for start in range(0, LANES, per_block):
        total = _ZERO
        for lane in range(start, start + per_block):
            total += energy[lane]
        for lane in range(start, start + per_block):
            mean_squares[lane] = factor * total / np.float32(size * per_block)


@kernel(exact=True, inline=True)
def weigh_by_square(values, size, weights, lanes):
    """The mean square of the part + x²."""
    floor = lanes[INVERSE]
    for lane in range(LANES):
        floor[lane] = lanes[ENERGY, lane] / np.float32(size)
    for i in range(size):
        for lane in range(LANES):
            weights[i, lane] = floor[lane] + values[i, lane] * values[i, lane]


@kernel(exact=True, inline=True)
def weigh_by_importance(values, size, per_block, weights, lanes):
    """importance·sqrt(2·mean square + x²) of the block, as in llama.cpp; `weights` hold the importance."""
    mean = lanes[INVERSE]
    block_mean_squares(lanes, size, per_block, _TWO, mean)
    for i in range(size):
        for lane in range(LANES):
            weights[i, lane] *= np.sqrt(mean[lane] + values[i, lane] * values[i, lane])


@kernel(exact=True, inline=True)
def start_from_extreme(lanes, level):
    """lanes[WIDTH] becomes the value of largest magnitude, lanes[SCALE] the scale that makes it `level`."""
    low, extreme, scale = lanes[LOW], lanes[WIDTH], lanes[SCALE]
    for lane in range(LANES):
        high = extreme[lane] + low[lane]
        extreme[lane] = high if high > -low[lane] else low[lane]
        scale[lane] = extreme[lane] / level
        lanes[GAIN, lane] = _ZERO


@kernel(exact=True, inline=True)
def make_extreme(lanes, target):
    """lanes[INVERSE] becomes what makes `target` of the value of largest magnitude; 0 where that is 0."""
    inverse, extreme = lanes[INVERSE], lanes[WIDTH]
    for lane in range(LANES):
        quotient = target / extreme[lane]
        inverse[lane] = quotient if extreme[lane] != _ZERO else _ZERO


@kernel(exact=True, inline=True)
def keep_better_scale(lanes):
    """The scale of least squares for the codes in lanes[SUM_QQ, SUM_QY], where it lowers the error."""
    sum_qq, sum_qx, gain, scale = lanes[SUM_QQ], lanes[SUM_QY], lanes[GAIN], lanes[SCALE]
    for lane in range(LANES):
        new_scale = sum_qx[lane] / sum_qq[lane]
        new_gain = new_scale * sum_qx[lane]
        old_gain, old_scale = gain[lane], scale[lane]
        better = (new_gain > old_gain) & (sum_qq[lane] > _ZERO)
        gain[lane] = new_gain if better else old_gain
        scale[lane] = new_scale if better else old_scale


@kernel(exact=True, inline=True)
def round_row(row, codes, importance, start, count, lowest, highest, tries):
    """Lanes start ... start+count of `row` become step·code, for the best of a few float16 steps. Returns the step.

    Codes are lowest ... highest (float32). The number of largest magnitude gets the code of largest magnitude, or one
    of the `tries` - 1 next to it: which of these steps fits the other numbers is a matter of luck, and worth a try.
    `importance` is the row of weights of the squared errors.
    """
    magnitude, sign = _extreme(row, start, count, lowest < _ZERO)
    limit = -lowest if lowest < _ZERO else highest
    best, least = _ZERO, np.float32(np.inf)
    for n in range(tries):
        step = sign * _step(magnitude / (limit - np.float32(n)))
        error = _rounding_error(row, importance, start, count, step, lowest, highest)
        if error < least or n == 0:
            best, least = step, error
    inverse = inverse_or_zero(best)
    for lane in range(start, start + count):
        codes[lane] = min(max(nearest(row[lane] * inverse), lowest), highest)
        row[lane] = best * codes[lane]
    return best


@kernel(exact=True, inline=True)
def _extreme(row, start, count, signed):
    """The largest magnitude of some lanes (their largest number if not `signed`), and the sign of a step for it."""
    low, high = _ZERO, _ZERO
    for lane in range(start, start + count):
        low = min(low, row[lane])
        high = max(high, row[lane])
    if not signed:
        return high, _ONE
    return max(high, -low), -_ONE if high > -low else _ONE


@kernel(exact=True)
def inverse_or_zero(x):
    """1/x; 0 for 0."""
    return _ONE / x if x != _ZERO else _ZERO


@kernel(exact=True, inline=True)
def invert_row(row, inverse):
    """1/x of each lane; 0 for 0."""
    for lane in range(LANES):
        x = row[lane]
        quotient = _ONE / x
        inverse[lane] = quotient if x != _ZERO else _ZERO


@kernel(exact=True)
def _step(wanted):
    """The nearest float16; below 2^-14, where they are coarse, the next above: else the largest number is cut off."""
    half = rounded_to_half(wanted)
    return half + _SMALLEST_HALF if half < wanted < _SMALLEST_NORMAL else half


@kernel(exact=True, inline=True)
def _rounding_error(row, importance, start, count, step, lowest, highest):
    """The weighted squared error of rounding lanes to codes of a step."""
    inverse = inverse_or_zero(step)
    error = _ZERO
    for lane in range(start, start + count):
        lost = row[lane] - step * min(max(nearest(row[lane] * inverse), lowest), highest)
        error += importance[lane] * lost * lost
    return error

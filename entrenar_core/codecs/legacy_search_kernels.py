"""Q4_0, Q4_1, Q5_0 and Q5_1 with an importance of each column: the scale that loses least is searched block by block.

A value's weight is importance·sqrt(mean square of its row + x²), as in llama.cpp. For each of some scales around the
plain one the codes are fixed, and then scale (and minimum) that fit those codes best have a closed form by least
squares. The codes that are stored are those of the best scale after it has been rounded to float16. Each search moves
on from the best that it has met and need not meet the plain scale, so at the end both are measured as the decoder sees
them, and the plain one is kept unless the other loses less. A block without any weight counts all its values alike.
What an encoder returns is said in `legacy_kernels`.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.half_kernels import float_of_half, half_of_float
from entrenar_core.codecs.lanes import (
    fit_sums,
    float_of_bits,
    line_error,
    store_weights,
    sum_of_squares,
    weighted_sum,
)
from entrenar_core.codecs.legacy_kernels import (
    BLOCK,
    furthest_bits,
    inverse_of,
    lowest_and_scale,
    nibble_block_bytes,
    overflows,
    store_codes,
    store_half,
)
from entrenar_core.jit import kernel

_SCALE_BYTES = 2
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_LARGEST = np.float32(3.4028234663852886e38)
_NO_ZERO = np.int32(0)

_STEPS = 9
_STEP = np.float32(0.1)
_RANGE_STEPS = 36
_RANGE_STEP = np.float32(0.05)
_RANGE_START = np.float32(-0.9)
_FURTHEST = np.float32(4.0)
"""How many times finer than the plain scale a scale may be: codes before they are cut stay far from int32's end."""
_LEAST_SPREAD = np.float32(1e-5)
"""Codes whose weighted variance is less than this part of their mean square are one code: rounding made the rest."""
_REFINEMENTS = 3
"""Least-squares steps from where the search has ended."""


@kernel(exact=True)
def row_mean_square(values, row):
    """The mean of x² over a row, as float32."""
    total = 0.0
    for column in range(0, values.shape[1], BLOCK):
        total += sum_of_squares(values, row, column)
    return np.float32(total / values.shape[1])


@kernel(exact=True)
def weigh_block(values, row, column, importance, mean_square, weights):
    """Fill weights float32 [32] and return their sum; all are 1 when they add up to nothing or to infinity."""
    total = store_weights(values, row, column, importance, mean_square, weights)
    if total > _ZERO and total <= _LARGEST:
        return total
    for i in range(BLOCK):
        weights[i] = _ONE
    return np.float32(BLOCK)


@kernel(exact=True)
def best_scale(values, row, column, weights, extreme, level):
    """The scale with the least weighted error, for codes -level ... level-1.

    extreme: the value of largest magnitude, not 0; level: float32 8 or 16.
    """
    zero, largest = np.int32(level), np.int32(level + level - _ONE)
    best, best_gain, of_extreme = -extreme / level, _ZERO, -_ONE / extreme
    for step in range(-_STEPS, _STEPS + 1 + _REFINEMENTS):
        inverse = (level + _STEP * np.float32(step)) * of_extreme if step <= _STEPS else _ONE / best
        if not abs(inverse * extreme) <= _FURTHEST * level:
            continue
        _, squares, products = fit_sums(values, row, column, _ZERO, inverse, level + _HALF, zero, largest, weights)
        if squares > _ZERO:
            scale = products / squares
            gain = products * scale
            if gain > best_gain and abs(scale) * _FURTHEST * level >= abs(extreme):
                best, best_gain = scale, gain
    return best


@kernel(exact=True)
def fitted_line(firsts, squares, products, mass, total):
    """Least squares for codes k and values u above the lowest: the slope, the offset, and by how much the error falls.

    firsts, squares, products: weighted sums of k, k², k·u; mass: of u; total: of the weights. No gain: no line.
    """
    spread = total * squares - firsts * firsts
    if not spread > _LEAST_SPREAD * total * squares:
        return _ZERO, _ZERO, _ZERO
    slope = (total * products - mass * firsts) / spread
    offset = (squares * mass - firsts * products) / spread
    return slope, offset, slope * products + offset * mass


@kernel(exact=True)
def best_line(values, row, column, weights, total, low, scale, levels):
    """The minimum and scale with the least weighted error, for codes 0 ... levels (float32 15 or 31).

    total: the sum of the weights; low, scale: those of the plain line, returned where the range is 0 or nearly.
    """
    width, largest = scale * levels, np.int32(levels)
    if not (width > _ZERO and _ONE / width <= _LARGEST and width <= _LARGEST):
        return low, scale
    mass = weighted_sum(values, row, column, low, weights)
    offset, best_gain = (
        _ZERO,
        _ZERO,
    )  # the best minimum so far lies `offset` above the lowest value: codes count from it
    for step in range(_RANGE_STEPS + 1 + _REFINEMENTS):
        finer = (levels + _RANGE_START + _RANGE_STEP * np.float32(step)) / (width - offset)
        inverse = finer if step <= _RANGE_STEPS else _ONE / scale
        if not abs(inverse * width) <= _FURTHEST * levels:
            continue
        rounding = _HALF - offset * inverse
        firsts, squares, products = fit_sums(values, row, column, low, inverse, rounding, _NO_ZERO, largest, weights)
        slope, shift, gain = fitted_line(firsts, squares, products, mass, total)
        if gain > best_gain and slope * _FURTHEST * levels >= width:
            scale, offset, best_gain = slope, shift, gain
    rounded = float_of_half(half_of_float(scale))
    inverse, _ = inverse_of(rounded)
    if abs(inverse * width) <= _FURTHEST * levels:  # the minimum that fits best once the scale has been rounded
        rounding = _HALF - offset * inverse
        firsts, _, _ = fit_sums(values, row, column, low, inverse, rounding, _NO_ZERO, largest, weights)
        offset = (mass - rounded * firsts) / total
    return low + offset, scale


@kernel(exact=True, inline=True)
def stored_error(values, row, column, low, half, rounding, zero, largest, weights, unit):
    """The weighted error of the line that the float16 bits `low` and `half` stand for, times unit²."""
    minimum, scale = float_of_half(low), float_of_half(half)
    inverse, _ = inverse_of(scale)
    return line_error(values, row, column, minimum, scale, inverse, rounding, zero, largest, weights, unit)


@kernel(exact=True)
def weighted_scale(values, row, column, weights, level):
    """float16 bits of a block's best scale, and the inverse of what they stand for (0 where it has none).

    The bits are those of infinity or NaN when the block cannot be stored.
    """
    extreme = float_of_bits(furthest_bits(values, row, column))
    half = half_of_float(extreme / -level)
    if overflows(half) or extreme == _ZERO:
        return half, _ZERO
    best = half_of_float(best_scale(values, row, column, weights, extreme, level))
    if best != half and not overflows(best):
        zero, largest, unit = np.int32(level), np.int32(level + level - _ONE), level / extreme
        ours = stored_error(values, row, column, _NO_ZERO, best, level + _HALF, zero, largest, weights, unit)
        if ours < stored_error(values, row, column, _NO_ZERO, half, level + _HALF, zero, largest, weights, unit):
            half = best
    inverse, usable = inverse_of(float_of_half(half))
    return half, inverse if usable else _ZERO


@kernel(exact=True)
def weighted_line(values, row, column, weights, total, levels):
    """float16 bits of a block's best minimum and scale, the minimum they stand for, and the inverse of the scale."""
    minimum, scale, unit, _ = lowest_and_scale(values, row, column, levels)
    low, half = half_of_float(minimum), half_of_float(scale)
    if not (overflows(low) or overflows(half)):
        minimum, scale = best_line(values, row, column, weights, total, minimum, scale, levels)
        best_low, best_half, largest = half_of_float(minimum), half_of_float(scale), np.int32(levels)
        if not (overflows(best_low) or overflows(best_half)):
            ours = stored_error(values, row, column, best_low, best_half, _HALF, _NO_ZERO, largest, weights, unit)
            if ours < stored_error(values, row, column, low, half, _HALF, _NO_ZERO, largest, weights, unit):
                low, half = best_low, best_half
    inverse, usable = inverse_of(float_of_half(half))
    return low, half, float_of_half(low), inverse if usable else _ZERO


@kernel(exact=True, inline=True)
def _encode_weighted_symmetric(values, importance, packed, level, has_fifth):
    """values float32 [R, C] with importance float32 [C]; `level`: the code of 0."""
    size, weights = nibble_block_bytes(has_fifth, False), np.empty(BLOCK, np.float32)
    blocks, refused = values.shape[1] // BLOCK, -1
    for row in range(values.shape[0]):
        mean_square = row_mean_square(values, row)
        for block in range(blocks):
            column, byte = block * BLOCK, block * size
            weigh_block(values, row, column, importance, mean_square, weights)
            half, inverse = weighted_scale(values, row, column, weights, level)
            if overflows(half):
                refused = row * blocks + block if refused < 0 else refused
                continue
            store_half(half, packed, row, byte)
            codes = byte + _SCALE_BYTES
            store_codes(values, row, column, _ZERO, inverse, level + _HALF, has_fifth, packed, codes)
    return refused


@kernel(exact=True, inline=True)
def _encode_weighted_affine(values, importance, packed, levels, has_fifth):
    """values float32 [R, C] with importance float32 [C]; `levels`: the largest code."""
    size, weights = nibble_block_bytes(has_fifth, True), np.empty(BLOCK, np.float32)
    blocks, refused = values.shape[1] // BLOCK, -1
    for row in range(values.shape[0]):
        mean_square = row_mean_square(values, row)
        for block in range(blocks):
            column, byte = block * BLOCK, block * size
            total = weigh_block(values, row, column, importance, mean_square, weights)
            low, half, minimum, inverse = weighted_line(values, row, column, weights, total, levels)
            if overflows(half) or overflows(low):
                refused = row * blocks + block if refused < 0 else refused
                continue
            store_half(half, packed, row, byte)
            store_half(low, packed, row, byte + _SCALE_BYTES)
            codes = byte + 2 * _SCALE_BYTES
            store_codes(values, row, column, minimum, inverse, _HALF, has_fifth, packed, codes)
    return refused


@kernel(exact=True)
def encode_weighted_q4_0(values, importance, packed):
    return _encode_weighted_symmetric(values, importance, packed, np.float32(8.0), False)


@kernel(exact=True)
def encode_weighted_q5_0(values, importance, packed):
    return _encode_weighted_symmetric(values, importance, packed, np.float32(16.0), True)


@kernel(exact=True)
def encode_weighted_q4_1(values, importance, packed):
    return _encode_weighted_affine(values, importance, packed, np.float32(15.0), False)


@kernel(exact=True)
def encode_weighted_q5_1(values, importance, packed):
    return _encode_weighted_affine(values, importance, packed, np.float32(31.0), True)

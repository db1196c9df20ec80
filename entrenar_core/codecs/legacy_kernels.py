"""Kernels of the block types of 32 values with one scale: every byte and bit as in ggml's reference quantizer.

Rows of values float32 [R, C] and of bytes uint8 [R, C/32·block_bytes], last axes contiguous. An encoder returns the
first block that it had to leave out, counted through all rows, or -1: one with a NaN, an infinity, or a scale beyond
float16. Codes come from the scale before that is rounded. A scale so small that its inverse overflows gives codes of 0.

What types have in common is inlined into the kernel of each, where its constants decide the branches.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.half_kernels import HALF_EXPONENT, float_of_half, half_of_float
from entrenar_core.codecs.lanes import (
    bits_of_float,
    first_of_magnitude,
    float_of_bits,
    load_codes4,
    load_codes5,
    load_codes8,
    order_extremes,
    store_codes4,
    store_codes5,
    store_codes8,
)
from entrenar_core.jit import kernel

BLOCK = 32
FIFTH_BYTES = 4
Q8_0_BYTES = 34

_SCALE_BYTES = 2
_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_NEGATIVE_INFINITY_KEY = np.int32(-0x7F800001)
_SIGN = np.int32(-0x80000000)
_SIGN_SHIFT = np.int32(31)
_BYTE_SHIFT = np.int32(8)
_BYTE = np.int32(255)
_NO_BITS = np.int32(0)
_NEGATIVE_ZERO_KEY = np.int32(-1)
_ZERO = np.float32(0.0)
_NEGATIVE_ZERO = np.float32(-0.0)  # what can be added to any number without changing it
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_LARGEST = np.float32(3.4028234663852886e38)


@kernel(exact=True)
def bits_of_key(key):
    """The bits of a float32 from its `order_key`, and the other way round.

    Keys are int32 and ordered as the numbers are, with -0 below 0 and every NaN beyond the infinity of its sign.
    """
    return key ^ ((key >> _SIGN_SHIFT) & _MAGNITUDE)


@kernel(exact=True)
def store_half(half, packed, row, byte):
    """Two bytes, the low one first."""
    packed[row, byte] = half & _BYTE
    packed[row, byte + 1] = (half >> _BYTE_SHIFT) & _BYTE


@kernel(exact=True)
def load_half(packed, row, byte):
    """The float32 value of the float16 at two bytes."""
    return float_of_half(np.int32(packed[row, byte]) | np.int32(packed[row, byte + 1]) << _BYTE_SHIFT)


@kernel(exact=True)
def overflows(half):
    """Whether float16 bits are those of an infinity or a NaN."""
    return half & HALF_EXPONENT == HALF_EXPONENT


@kernel(exact=True)
def furthest_bits(values, row, column):
    """The bits of the first value of largest magnitude in a block; of an infinity when a value is not finite."""
    lowest, highest = order_extremes(values, row, column)
    if lowest <= _NEGATIVE_INFINITY_KEY or highest >= _INFINITY:
        return _INFINITY
    low, high = float_of_bits(bits_of_key(lowest)), float_of_bits(bits_of_key(highest))
    both = bits_of_float(low + high)  # has the sign of the further one
    if both & _MAGNITUDE == _NO_BITS:
        return first_of_magnitude(values, row, column, bits_of_float(high) & _MAGNITUDE)
    # Compared as numbers, which is an instruction; LLVM makes a branch of whole numbers, wrong for every other block.
    return bits_of_float(max(abs(low), abs(high))) | (both & _SIGN)


@kernel(exact=True)
def inverse_of(scale):
    """1/scale, and whether it can be multiplied by; 0 for a scale of 0."""
    if scale == _ZERO:
        return _ZERO, True
    inverse = _ONE / scale
    return inverse, abs(inverse) <= _LARGEST


@kernel(exact=True)
def symmetric_scale(values, row, column, extreme_level, rounding):
    """A block's scale, inverse and rounding, where the value of largest magnitude has the code of `extreme_level`.

    The scale is NaN or infinite when a value is.
    """
    bits = furthest_bits(values, row, column)
    bits = bits if bits & _MAGNITUDE else _NO_BITS
    scale = float_of_bits(bits) / extreme_level
    inverse, usable = inverse_of(scale)
    return scale, inverse if usable else _ZERO, rounding if usable else _ZERO


@kernel(exact=True)
def lowest_and_scale(values, row, column, levels):
    """The first of a block's smallest values, its range/levels, the inverse, and the rounding.

    The scale is NaN or infinite when a value is, or when the range is beyond float32.
    """
    lowest, highest = order_extremes(values, row, column)
    low, high = bits_of_key(lowest), bits_of_key(highest)
    if lowest == _NEGATIVE_ZERO_KEY:  # 0 and -0 are equal: the first counts
        low = first_of_magnitude(values, row, column, _NO_BITS)
    minimum = float_of_bits(low)
    scale = (float_of_bits(high) - minimum) / levels
    inverse, usable = inverse_of(scale)
    return minimum, scale, inverse if usable else _ZERO, _HALF if usable else _ZERO


@kernel(exact=True, inline=True)
def nibble_block_bytes(has_fifth, has_minimum):
    """Bytes of a block of 4-bit codes, with the fifth bits and the minimum that it may have."""
    size = _SCALE_BYTES + BLOCK // 2
    size += FIFTH_BYTES if has_fifth else 0
    return size + _SCALE_BYTES if has_minimum else size


@kernel(exact=True, inline=True)
def store_codes(values, row, column, minimum, inverse, rounding, has_fifth, packed, byte):
    """Codes of 4 bits, or of 5; see `lanes`."""
    if has_fifth:
        store_codes5(values, row, column, minimum, inverse, rounding, packed, byte)
    else:
        store_codes4(values, row, column, minimum, inverse, rounding, packed, byte)


@kernel(exact=True, inline=True)
def _load_codes(packed, row, byte, zero, scale, minimum, has_fifth, values, column):
    if has_fifth:
        load_codes5(packed, row, byte, zero, scale, minimum, values, column)
    else:
        load_codes4(packed, row, byte, zero, scale, minimum, values, column)


@kernel(exact=True, inline=True)
def _encode_symmetric(values, packed, level, has_fifth):
    """Scale and codes; the extreme has code 0, and `level` (float32 8 or 16) is the code of 0."""
    size = nibble_block_bytes(has_fifth, False)
    blocks, refused = values.shape[1] // BLOCK, -1
    for row in range(values.shape[0]):
        for block in range(blocks):
            column, byte = block * BLOCK, block * size
            scale, inverse, half_up = symmetric_scale(values, row, column, -level, level + _HALF)
            half = half_of_float(scale)
            if overflows(half):
                refused = row * blocks + block if refused < 0 else refused
                continue
            store_half(half, packed, row, byte)
            store_codes(values, row, column, _ZERO, inverse, half_up, has_fifth, packed, byte + _SCALE_BYTES)
    return refused


@kernel(exact=True, inline=True)
def _encode_affine(values, packed, levels, has_fifth):
    """Scale, minimum and codes; the smallest value has code 0, the largest `levels` (float32)."""
    size = nibble_block_bytes(has_fifth, True)
    blocks, refused = values.shape[1] // BLOCK, -1
    for row in range(values.shape[0]):
        for block in range(blocks):
            column, byte = block * BLOCK, block * size
            minimum, scale, inverse, rounding = lowest_and_scale(values, row, column, levels)
            half, low = half_of_float(scale), half_of_float(minimum)
            if overflows(half) or overflows(low):
                refused = row * blocks + block if refused < 0 else refused
                continue
            store_half(half, packed, row, byte)
            store_half(low, packed, row, byte + _SCALE_BYTES)
            store_codes(values, row, column, minimum, inverse, rounding, has_fifth, packed, byte + 2 * _SCALE_BYTES)
    return refused


@kernel(exact=True)
def encode_q4_0(values, packed):
    return _encode_symmetric(values, packed, np.float32(8.0), False)


@kernel(exact=True)
def encode_q5_0(values, packed):
    return _encode_symmetric(values, packed, np.float32(16.0), True)


@kernel(exact=True)
def encode_q4_1(values, packed):
    return _encode_affine(values, packed, np.float32(15.0), False)


@kernel(exact=True)
def encode_q5_1(values, packed):
    return _encode_affine(values, packed, np.float32(31.0), True)


@kernel(exact=True)
def encode_q8_0(values, packed):
    """Scale and 32 bytes of codes; the extreme has code 127 or -127."""
    levels = np.float32(127.0)
    blocks, refused = values.shape[1] // BLOCK, -1
    for row in range(values.shape[0]):
        for block in range(blocks):
            column, byte = block * BLOCK, block * Q8_0_BYTES
            lowest, highest = order_extremes(values, row, column)
            magnitude = max(bits_of_key(lowest) & _MAGNITUDE, bits_of_key(highest) & _MAGNITUDE)
            scale = float_of_bits(magnitude) / levels
            half = half_of_float(scale)
            if overflows(half):
                refused = row * blocks + block if refused < 0 else refused
                continue
            inverse, usable = inverse_of(scale)
            store_half(half, packed, row, byte)
            store_codes8(values, row, column, inverse if usable else _ZERO, packed, byte + _SCALE_BYTES)
    return refused


@kernel(exact=True, inline=True)
def _decode_symmetric(packed, values, zero, has_fifth):
    """scale·(code - zero); zero is an int32."""
    size = nibble_block_bytes(has_fifth, False)
    for row in range(values.shape[0]):
        for block in range(values.shape[1] // BLOCK):
            byte, column = block * size, block * BLOCK
            scale = load_half(packed, row, byte)
            _load_codes(packed, row, byte + _SCALE_BYTES, zero, scale, _NEGATIVE_ZERO, has_fifth, values, column)


@kernel(exact=True, inline=True)
def _decode_affine(packed, values, has_fifth):
    """scale·code + minimum."""
    size = nibble_block_bytes(has_fifth, True)
    for row in range(values.shape[0]):
        for block in range(values.shape[1] // BLOCK):
            byte, column = block * size, block * BLOCK
            scale, minimum = load_half(packed, row, byte), load_half(packed, row, byte + _SCALE_BYTES)
            _load_codes(packed, row, byte + 2 * _SCALE_BYTES, _NO_BITS, scale, minimum, has_fifth, values, column)


@kernel(exact=True)
def decode_q4_0(packed, values):
    _decode_symmetric(packed, values, np.int32(8), False)


@kernel(exact=True)
def decode_q5_0(packed, values):
    _decode_symmetric(packed, values, np.int32(16), True)


@kernel(exact=True)
def decode_q4_1(packed, values):
    _decode_affine(packed, values, False)


@kernel(exact=True)
def decode_q5_1(packed, values):
    _decode_affine(packed, values, True)


@kernel(exact=True)
def decode_q8_0(packed, values):
    """scale·code."""
    for row in range(values.shape[0]):
        for block in range(values.shape[1] // BLOCK):
            byte = block * Q8_0_BYTES
            load_codes8(packed, row, byte + _SCALE_BYTES, load_half(packed, row, byte), values, block * BLOCK)

"""Kernels of the block types of 32 values with one scale: N blocks at a time, with every byte and bit as in ggml.

Scales are float32 here; their float16 form is the codec's business. Codes come from the scale before it is rounded.
A scale so small that its inverse overflows gives a block of zero codes.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_MAGNITUDE = np.int32(0x7FFFFFFF)
_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_LARGEST = np.float32(3.4028234663852886e38)

_Q4_LEVELS = np.float32(-8.0)
_Q4_ZERO = np.int32(8)
_LOW_NIBBLE = np.uint8(15)
_NIBBLE_BITS = np.uint8(4)
_Q4_ROUND = np.float32(8.5)
_Q8_LEVELS = np.float32(127.0)


@kernel(exact=True)
def _inverse(scale):
    """1/scale, and whether it can be multiplied by; 0 for a scale of 0."""
    if scale == _ZERO:
        return _ZERO, True
    inverse = _ONE / scale
    return inverse, abs(inverse) <= _LARGEST and abs(scale) <= _LARGEST


@kernel(exact=True)
def _rounded_away(x):
    """x in -128 ... 127 as a whole number; halves go away from zero."""
    whole = np.int32(x)
    rest = x - np.float32(whole)
    if rest >= _HALF:
        return whole + 1
    return whole - 1 if rest <= -_HALF else whole


@kernel(exact=True)
def largest_magnitude_bits(bits):
    """The largest |x| of float32 values given as their bits int32 [n], as bits; NaN counts as larger than infinity."""
    largest = np.int32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & _MAGNITUDE)
    return largest


@kernel(exact=True)
def encode_q4_0(values, bits, scales, blocks):
    """values float32 [N, 32] and their bits int32 -> scales float32 [N], codes in blocks uint8 [N, 18] from byte 2."""
    for n in range(scales.size):
        row = values[n]
        largest = largest_magnitude_bits(bits[n])
        extreme = _ZERO
        for i in range(31, -1, -1):  # the first of equals is met last
            if largest and bits[n, i] & _MAGNITUDE == largest:
                extreme = row[i]
        scale = extreme / _Q4_LEVELS
        scales[n] = scale
        inverse, usable = _inverse(scale)
        for i in range(16):
            low = np.int32(row[i] * inverse + _Q4_ROUND) if usable else 0
            high = np.int32(row[i + 16] * inverse + _Q4_ROUND) if usable else 0
            blocks[n, 2 + i] = min(low, 15) | min(high, 15) << 4


@kernel(exact=True)
def decode_q4_0(blocks, scales, values):
    """blocks uint8 [N, 18] with scales float32 [N] -> values float32 [N, 32]: scale·(code - 8)."""
    codes = np.empty(32, np.uint8)  # unpacked first: LLVM vectorises two simple loops and not the joined one
    low, high = codes[0:16], codes[16:32]
    for n in range(scales.size):
        packed = blocks[n, 2:18]
        for i in range(packed.size):
            low[i] = packed[i] & _LOW_NIBBLE
            high[i] = packed[i] >> _NIBBLE_BITS
        scale = scales[n]
        row = values[n, 0:32]
        for i in range(row.size):
            row[i] = scale * np.float32(np.int32(codes[i]) - _Q4_ZERO)


@kernel(exact=True)
def encode_q8_0(values, bits, scales, codes):
    """values float32 [N, 32] and their bits int32 -> scales float32 [N] and codes int8 [N, 34] from byte 2."""
    for n in range(scales.size):
        row = values[n]
        extreme = _ZERO
        largest = largest_magnitude_bits(bits[n])
        for i in range(32):
            if bits[n, i] & _MAGNITUDE == largest:
                extreme = abs(row[i])
        scale = extreme / _Q8_LEVELS
        scales[n] = scale
        inverse, usable = _inverse(scale)
        for i in range(32):
            codes[n, 2 + i] = _rounded_away(row[i] * inverse) if usable else 0


@kernel(exact=True)
def decode_q8_0(codes, scales, values):
    """codes int8 [N, 34] with scales float32 [N] -> values float32 [N, 32]: scale·code."""
    for n in range(scales.size):
        scale = scales[n]
        block = codes[n, 2:34]
        row = values[n, 0:32]
        for i in range(row.size):
            row[i] = scale * np.float32(block[i])

"""Kernels of F16 and BF16 over flat arrays, with the rounding of `half_kernels` and bit for bit the values of ggml.

An encoder says whether a finite value has become infinite; it keeps infinities, and NaNs with their sign.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.half_kernels import float_of_half, half_of_float
from entrenar_core.codecs.lanes import bits_of_float, float_of_bits
from entrenar_core.jit import kernel

_MAGNITUDE = np.int32(0x7FFFFFFF)
_INFINITY = np.int32(0x7F800000)
_HALF_OVERFLOW = np.int32(0x477FF000)
_BFLOAT_OVERFLOW = np.int32(0x7F7F8000)
_UPPER = np.int32(0xFFFF)
_BELOW_TIE = np.int32(0x7FFF)
_QUIET = np.int32(0x40)
_ONE, _SIXTEEN = np.int32(1), np.int32(16)


@kernel(exact=True)
def encode_f16(values, halves):
    """values float32 [n] -> halves uint16 [n]; True when one has overflowed."""
    lost = False
    for i in range(values.size):
        halves[i] = half_of_float(values[i])
        magnitude = bits_of_float(values[i]) & _MAGNITUDE
        lost |= (magnitude >= _HALF_OVERFLOW) & (magnitude < _INFINITY)
    return lost


@kernel(exact=True)
def decode_f16(halves, values):
    """halves uint16 [n] -> values float32 [n]."""
    for i in range(halves.size):
        values[i] = float_of_half(np.int32(halves[i]))


@kernel(exact=True)
def encode_bf16(values, halves):
    """values float32 [n] -> halves uint16 [n]; True when one has overflowed."""
    lost = False
    for i in range(values.size):
        bits = bits_of_float(values[i])
        magnitude = bits & _MAGNITUDE
        upper = bits >> _SIXTEEN
        # The sum cannot overflow: magnitudes up to infinity leave room, and a NaN's is not used.
        rounded = (magnitude + _BELOW_TIE + (upper & _ONE)) >> _SIXTEEN
        sign = upper & ~_BELOW_TIE
        number = magnitude <= _INFINITY
        halves[i] = ((sign | rounded) if number else (upper | _QUIET)) & _UPPER
        lost |= (magnitude >= _BFLOAT_OVERFLOW) & (magnitude < _INFINITY)
    return lost


@kernel(exact=True)
def decode_bf16(halves, values):
    """halves uint16 [n] -> values float32 [n]."""
    for i in range(halves.size):
        values[i] = float_of_bits(np.int32(halves[i]) << _SIXTEEN)

"""float32 to float16 bits and back: the processor's own instruction, or whole-number arithmetic where it has none.

Both round to nearest, ties to even, keep NaNs (made quiet, the sign and the upper payload kept), and do not depend on
how the processor is set to treat subnormals. Halves are held in an int32.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs import lanes
from entrenar_core.codecs.lanes import bits_of_float, float_of_bits
from entrenar_core.jit import kernel

HALF_EXPONENT = np.int32(0x7C00)
"""The exponent bits of a float16; all set in an infinity or a NaN."""

_MAGNITUDE = np.int32(0x7FFFFFFF)
_ONE, _THIRTEEN, _SIXTEEN = np.int32(1), np.int32(13), np.int32(16)
_BELOW_TIE = np.int32(0xFFF)
_BIAS = np.int32(112 << 23)  # float32's exponent bias less float16's, in place
_SMALLEST_NORMAL = np.int32(113 << 23)  # 2^-14
_OVERFLOW = np.int32(0x477FF000)  # 65520, the smallest that rounds to infinity
_INFINITY = np.int32(255 << 23)
_MANTISSA = np.int32(0x7FFFFF)
_LEADING_ONE = np.int32(0x800000)
_EXPONENT_SHIFT = np.int32(23)
_SUBNORMAL_SHIFT = np.int32(126)
_LARGEST_SHIFT = np.int32(25)
_HALF_SIGN = np.int32(0x8000)
_HALF_MAGNITUDE = np.int32(0x7FFF)
_HALF_QUIET = np.int32(0x7E00)
_HALF_PAYLOAD = np.int32(0x3FF)
_QUIET = np.int32(1 << 22)
_SMALLEST_NORMAL_VALUE = np.float32(2.0**-14)


@kernel(exact=True)
def portable_half(value):
    """float32 -> the bits of the nearest float16; what is too large becomes infinite."""
    bits = bits_of_float(value)
    magnitude = bits & _MAGNITUDE
    normal = (magnitude - _BIAS + _BELOW_TIE + ((magnitude >> _THIRTEEN) & _ONE)) >> _THIRTEEN
    mantissa = (magnitude & _MANTISSA) | _LEADING_ONE
    shift = min(max(_SUBNORMAL_SHIFT - (magnitude >> _EXPONENT_SHIFT), _ONE), _LARGEST_SHIFT)
    subnormal = (mantissa + (_ONE << (shift - _ONE)) - _ONE + ((mantissa >> shift) & _ONE)) >> shift
    half = normal if magnitude >= _SMALLEST_NORMAL else subnormal
    half = HALF_EXPONENT if magnitude >= _OVERFLOW else half
    payload = _HALF_QUIET | ((magnitude >> _THIRTEEN) & _HALF_PAYLOAD)
    half = payload if magnitude > _INFINITY else half
    return half | ((bits >> _SIXTEEN) & _HALF_SIGN)


@kernel(exact=True)
def portable_value(half):
    """The bits of a float16 -> the float32 of the same value."""
    wide = (half & _HALF_MAGNITUDE) << _THIRTEEN
    bits = wide + _BIAS
    bits = bits + _BIAS if wide >= (HALF_EXPONENT << _THIRTEEN) else bits
    bits = bits | _QUIET if wide > (HALF_EXPONENT << _THIRTEEN) else bits
    # 2^-14·(1 + mantissa/1024) - 2^-14: the mantissa's worth, with no subnormal on the way.
    small = float_of_bits(wide + _SMALLEST_NORMAL) - _SMALLEST_NORMAL_VALUE
    magnitude = small if wide < _LEADING_ONE else float_of_bits(bits)
    return float_of_bits(bits_of_float(magnitude) | (half & _HALF_SIGN) << _SIXTEEN)


half_of_float = lanes.half_of_float if lanes.native_halves() else portable_half
float_of_half = lanes.float_of_half if lanes.native_halves() else portable_value

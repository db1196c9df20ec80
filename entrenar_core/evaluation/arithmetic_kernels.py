"""Kernels that round rows to the 8-bit blocks that llama.cpp quantizes activations to, and give the values back.

They are ``quantize_row_q8_0`` of ggml's x86 code and ``quantize_row_q8_K``, followed by decoding, bit for bit.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.half_kernels import float_of_half, half_of_float
from entrenar_core.jit import kernel

Q8_0_BLOCK = 32
Q8_K_BLOCK = 256

_MAGNITUDE = np.int32(0x7FFFFFFF)
_LEVELS = np.float32(127.0)
_ZERO = np.float32(0.0)
_ONE = np.float32(1.0)
_INTEGERS = np.float32(12582912.0)
"""1.5·2^23: floats of its size are whole numbers, so adding it rounds to the nearest one, ties to even."""


@kernel(exact=True)
def _largest_magnitude(values):
    """The largest |x|; as bits, whose maxima vectorise."""
    bits = values.view(np.int32)
    largest = np.int32(0)
    for i in range(bits.size):
        largest = max(largest, bits[i] & _MAGNITUDE)
    return np.int32(largest).view(np.float32)


@kernel(exact=True)
def round_q8_0(x, y, start, stop):
    """Blocks x float32 [N, 32] -> y: 127/max|x| times each value, as a whole number, times max|x|/127 in F16."""
    for n in range(start, stop):
        values, out = x[n], y[n]
        largest = _largest_magnitude(values)
        inverse = _LEVELS / largest if largest != _ZERO else _ZERO
        scale = float_of_half(half_of_float(largest / _LEVELS))
        for i in range(values.size):
            out[i] = (values[i] * inverse + _INTEGERS - _INTEGERS) * scale


@kernel(exact=True)
def round_q8_k(x, y, start, stop):
    """Blocks x float32 [N, 256] -> y: as Q8_0, but the scale is 1/(127/max|x|) in F32.

    ggml scales by -127 over the value of the largest magnitude; the sign cancels.
    """
    for n in range(start, stop):
        values, out = x[n], y[n]
        largest = _largest_magnitude(values)
        inverse = _LEVELS / largest if largest != _ZERO else _ZERO
        scale = _ONE / inverse if largest != _ZERO else _ZERO
        for i in range(values.size):
            out[i] = (values[i] * inverse + _INTEGERS - _INTEGERS) * scale

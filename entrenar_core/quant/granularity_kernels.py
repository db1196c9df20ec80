"""Kernels of weights that share a scale by row: codes, and the error that codes would have.

A value x has the code round((x - minimum) / scale) between `least` and `most`, and comes back as code·scale + minimum;
halves are rounded up. A scale of 0 gives codes of 0.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_LANES = 32
"""Sums that run side by side; rows are whole blocks of as many values."""


@kernel(exact=True)
def encode_rows(values, scales, minima, least, most, codes):
    """values float32 [N, in], scales and minima float32 [N] -> codes int8 [N, in]."""
    for n in range(scales.size):
        inverse = _ZERO if scales[n] == _ZERO else _ONE / scales[n]
        minimum = minima[n]
        for j in range(values.shape[1]):
            level = min(max((values[n, j] - minimum) * inverse, least), most)
            codes[n, j] = np.int8(np.floor(level + _HALF))


@kernel(exact=True)
def row_errors(values, importance, scales, minima, least, most, errors):
    """The squared error of each row of `encode_rows`, weighed by importance float32 [in] -> errors float64 [N]."""
    sums = np.empty(_LANES, np.float64)
    for n in range(scales.size):
        scale, minimum = scales[n], minima[n]
        inverse = _ZERO if scale == _ZERO else _ONE / scale
        sums[:] = 0.0
        for start in range(0, values.shape[1], _LANES):
            row, weights = values[n, start : start + _LANES], importance[start : start + _LANES]
            for j in range(_LANES):
                level = min(max((row[j] - minimum) * inverse, least), most)
                error = np.float64(row[j] - (np.floor(level + _HALF) * scale + minimum))
                sums[j] += np.float64(weights[j]) * error * error
        total = 0.0
        for j in range(_LANES):
            total += sums[j]
        errors[n] = total

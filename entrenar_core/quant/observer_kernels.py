"""The kernel that counts magnitudes by their size: bins are read off the bits of a float32.

Eight bits of the exponent and four of the mantissa make 16 bins for each factor of two; what is below 2⁻²⁰ shares the
first bin, and what is 2¹² or above the last.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_MAGNITUDE = np.int32(0x7FFFFFFF)
_SHIFT = np.int32(19)
_BIAS = 127
_LEAST_EXPONENT, _MOST_EXPONENT = -20, 12
_FIRST = np.int32((_BIAS + _LEAST_EXPONENT) * 16 - 1)
N_BINS = (_MOST_EXPONENT - _LEAST_EXPONENT) * 16 + 2
_LAST = np.int32(N_BINS - 1)
_NONE = np.int32(0)
_ONE = np.uint32(1)


@kernel(exact=True)
def count_magnitudes(bits, counts):
    """The bits of float32 [M, in] as int32, added to counts uint32 [in, N_BINS]."""
    for j in range(bits.shape[1]):
        of_column = counts[j]
        for m in range(bits.shape[0]):
            place = ((bits[m, j] & _MAGNITUDE) >> _SHIFT) - _FIRST
            of_column[min(max(place, _NONE), _LAST)] += _ONE


def upper_edges() -> np.ndarray:
    """float32 [N_BINS], the magnitude that a bin ends at; infinity for the last."""
    first = np.arange(N_BINS, dtype=np.int32) + (_FIRST + np.int32(1))
    edges = (first << _SHIFT).view(np.float32)
    return np.append(edges[:-1], np.float32(np.inf))

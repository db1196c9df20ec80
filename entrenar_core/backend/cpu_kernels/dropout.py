"""Dropout by a counter-based generator: element i's fate is a function of the key and i alone (Steele et al. 2014)."""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import ZERO
from entrenar_core.jit import kernel

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_30 = np.uint64(30)
_27 = np.uint64(27)
_31 = np.uint64(31)
_32 = np.uint64(32)


@kernel(exact=True)
def dropout(x, y, key, threshold, factor, start, stop):
    """key, threshold: uint64; factor: 1/(1-p)."""
    factor = np.float32(factor)
    x = x[start:stop]
    y = y[start:stop]
    state = key + np.uint64(start) * _GOLDEN
    for i in range(x.size):
        z = state + np.uint64(i + 1) * _GOLDEN
        z = (z ^ (z >> _30)) * _FIRST
        z = (z ^ (z >> _27)) * _SECOND
        z = z ^ (z >> _31)
        y[i] = x[i] * factor if (z >> _32) >= threshold else ZERO

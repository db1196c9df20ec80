"""Rotary position embedding of x [M, H, E] by angles cos, sin [M, P] (Su et al. 2021); `sign` -1 turns back."""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel


@kernel()
def rope_interleaved(x, cos, sin, y, sign, start, stop):
    """Pairs (2i, 2i + 1)."""
    sign = np.float32(sign)
    for m in range(start, stop):
        c = cos[m]
        s = sin[m]
        for h in range(x.shape[1]):
            row = x[m, h]
            out = y[m, h]
            for i in range(c.size):
                first = row[2 * i]
                second = row[2 * i + 1]
                turn = sign * s[i]
                out[2 * i] = first * c[i] - second * turn
                out[2 * i + 1] = second * c[i] + first * turn
            for i in range(2 * c.size, row.size):
                out[i] = row[i]


@kernel()
def rope_halves(x, cos, sin, y, sign, start, stop):
    """Pairs (i, i + P)."""
    sign = np.float32(sign)
    for m in range(start, stop):
        c = cos[m]
        s = sin[m]
        pairs = c.size
        for h in range(x.shape[1]):
            row = x[m, h]
            out = y[m, h]
            for i in range(pairs):
                first = row[i]
                second = row[pairs + i]
                turn = sign * s[i]
                out[i] = first * c[i] - second * turn
                out[pairs + i] = second * c[i] + first * turn
            for i in range(2 * pairs, row.size):
                out[i] = row[i]

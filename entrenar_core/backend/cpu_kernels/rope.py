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
            first = x[m, h, :pairs]
            second = x[m, h, pairs : 2 * pairs]
            first_out = y[m, h, :pairs]
            second_out = y[m, h, pairs : 2 * pairs]
            for i in range(pairs):
                turn = sign * s[i]
                first_out[i] = first[i] * c[i] - second[i] * turn
                second_out[i] = second[i] * c[i] + first[i] * turn
            for i in range(2 * pairs, x.shape[2]):
                y[m, h, i] = x[m, h, i]

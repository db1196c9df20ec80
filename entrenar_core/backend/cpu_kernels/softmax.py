"""Softmax of the rows of x [M, N] and its gradient."""

from __future__ import annotations

from entrenar_core.backend.cpu_kernels.elementary import ONE, ZERO, exp, maximum
from entrenar_core.jit import kernel


@kernel()
def softmax(x, y, start, stop):
    for m in range(start, stop):
        row = x[m]
        out = y[m]
        largest = maximum(row)
        total = ZERO
        for i in range(row.size):
            e = exp(row[i] - largest)
            out[i] = e
            total += e
        inverse = ONE / total
        for i in range(row.size):
            out[i] *= inverse


@kernel()
def softmax_backward(dy, y, dx, start, stop):
    for m in range(start, stop):
        grad = dy[m]
        row = y[m]
        out = dx[m]
        dot = ZERO
        for i in range(row.size):
            dot += grad[i] * row[i]
        for i in range(row.size):
            out[i] = row[i] * (grad[i] - dot)

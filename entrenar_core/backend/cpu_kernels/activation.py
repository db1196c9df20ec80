"""Activations over flat arrays, forward and backward; one pass each."""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import HALF, ONE, ZERO, exp, normal_cdf, sigmoid
from entrenar_core.jit import kernel

_CUBIC = np.float32(0.044715)
_THREE = np.float32(3.0)
_TWICE_SQRT_2_OVER_PI = np.float32(2 * np.sqrt(2 / np.pi))
_INV_SQRT_2_PI = np.float32(1 / np.sqrt(2 * np.pi))


@kernel()
def relu(x, y, start, stop):
    x = x[start:stop]
    y = y[start:stop]
    for i in range(x.size):
        y[i] = ZERO if x[i] < ZERO else x[i]


@kernel()
def relu_backward(dy, x, dx, start, stop):
    dy = dy[start:stop]
    x = x[start:stop]
    dx = dx[start:stop]
    for i in range(x.size):
        dx[i] = dy[i] if x[i] > ZERO else ZERO


@kernel()
def silu(x, y, start, stop):
    x = x[start:stop]
    y = y[start:stop]
    for i in range(x.size):
        y[i] = x[i] * sigmoid(x[i])


@kernel()
def silu_backward(dy, x, dx, start, stop):
    """d(x·σ)/dx = σ·(1 + x·(1 - σ))."""
    dy = dy[start:stop]
    x = x[start:stop]
    dx = dx[start:stop]
    for i in range(x.size):
        s = sigmoid(x[i])
        dx[i] = dy[i] * (s * (ONE + x[i] * (ONE - s)))


@kernel()
def gelu(x, y, start, stop):
    x = x[start:stop]
    y = y[start:stop]
    for i in range(x.size):
        y[i] = x[i] * normal_cdf(x[i], exp(-HALF * x[i] * x[i]))


@kernel()
def gelu_backward(dy, x, dx, start, stop):
    """d(x·Φ)/dx = Φ + x·φ."""
    dy = dy[start:stop]
    x = x[start:stop]
    dx = dx[start:stop]
    for i in range(x.size):
        gauss = exp(-HALF * x[i] * x[i])
        dx[i] = dy[i] * (normal_cdf(x[i], gauss) + x[i] * (gauss * _INV_SQRT_2_PI))


@kernel()
def gelu_tanh(x, y, start, stop):
    """(1 + tanh u)/2 is σ(2u), which keeps its accuracy in the negative tail."""
    x = x[start:stop]
    y = y[start:stop]
    for i in range(x.size):
        twice_u = _TWICE_SQRT_2_OVER_PI * (x[i] + _CUBIC * (x[i] * x[i] * x[i]))
        y[i] = x[i] * sigmoid(twice_u)


@kernel()
def gelu_tanh_backward(dy, x, dx, start, stop):
    dy = dy[start:stop]
    x = x[start:stop]
    dx = dx[start:stop]
    for i in range(x.size):
        square = x[i] * x[i]
        s = sigmoid(_TWICE_SQRT_2_OVER_PI * (x[i] + _CUBIC * (x[i] * square)))
        slope = _TWICE_SQRT_2_OVER_PI * (ONE + _THREE * _CUBIC * square)
        dx[i] = dy[i] * (s + x[i] * slope * (s * (ONE - s)))


@kernel()
def swiglu(gate, up, y, start, stop):
    gate = gate[start:stop]
    up = up[start:stop]
    y = y[start:stop]
    for i in range(y.size):
        y[i] = gate[i] * sigmoid(gate[i]) * up[i]


@kernel()
def swiglu_backward(dy, gate, up, dgate, dup, start, stop):
    dy = dy[start:stop]
    gate = gate[start:stop]
    up = up[start:stop]
    dgate = dgate[start:stop]
    dup = dup[start:stop]
    for i in range(dy.size):
        s = sigmoid(gate[i])
        silu_of_gate = gate[i] * s
        dup[i] = dy[i] * silu_of_gate
        dgate[i] = dy[i] * up[i] * (s + silu_of_gate * (ONE - s))

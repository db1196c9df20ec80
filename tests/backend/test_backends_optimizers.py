"""Optimizer steps on every backend, several in a row, against a textbook in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.parameters import AdamParams, SGDParams
from tests.backend.agreement import assert_close, on

SHAPES = [(1,), (7,), (3, 5), (129, 33), (70_001,)]
N_STEPS = 6


def textbook_adam(
    p: np.ndarray, grads: list[np.ndarray], lr: float, b1: float, b2: float, eps: float, wd: float, decoupled: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m, v = np.zeros_like(p), np.zeros_like(p)
    for t, grad in enumerate(grads, 1):
        g = grad if decoupled else grad + wd * p
        m = b1 * m + (1 - b1) * g
        v = b2 * v + (1 - b2) * g**2
        decayed = p * (1 - lr * wd) if decoupled else p
        p = decayed - lr * (m / (1 - b1**t)) / (np.sqrt(v / (1 - b2**t)) + eps)
    return p, m, v


def textbook_sgd(
    p: np.ndarray, grads: list[np.ndarray], lr: float, momentum: float, wd: float, nesterov: bool
) -> tuple[np.ndarray, np.ndarray]:
    velocity = np.zeros_like(p)
    for grad in grads:
        g = grad + wd * p
        velocity = momentum * velocity + g
        p = p - lr * (g + momentum * velocity if nesterov else velocity)
    return p, velocity


def start_and_gradients(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rounded to float32; gradients of many sizes, from 1e-6 to 10."""
    start = np.float32(0.1 * rng.normal(size=shape)).astype(np.float64)
    sizes = 10 ** rng.uniform(-6, 1, shape)
    return start, [np.float32(sizes * rng.normal(size=shape)).astype(np.float64) for _ in range(N_STEPS)]


@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [True, False], ids=["adamw", "adam"])
@pytest.mark.parametrize("shape", SHAPES)
def test_adam(
    backend: Any,
    shape: tuple[int, ...],
    decoupled: bool,
    weight_decay: float,
    grad_scale: float,
    rng: np.random.Generator,
) -> None:
    start, grads = start_and_gradients(shape, rng)
    p, m, v = on(backend, start), backend.zeros(shape), backend.zeros(shape)
    for step, grad in enumerate(grads, 1):
        there = on(backend, grad)
        params = AdamParams(0.01, 0.9, 0.95, 1e-8, weight_decay, decoupled, step, grad_scale)
        backend.adam_step(p, there, m, v, params)
        np.testing.assert_array_equal(backend.to_host(there), grad.astype(backend.dtype))  # the gradient is kept
    scaled = [grad_scale * grad for grad in grads]
    truths = textbook_adam(start, scaled, 0.01, 0.9, 0.95, 1e-8, weight_decay, decoupled)
    for name, actual, truth in zip("pmv", (p, m, v), truths, strict=True):
        assert_close(backend.to_host(actual), truth, 2e-6, name)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("grad_scale", [1.0, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_sgd(
    backend: Any,
    shape: tuple[int, ...],
    weight_decay: float,
    grad_scale: float,
    momentum: float,
    nesterov: bool,
    rng: np.random.Generator,
) -> None:
    start, grads = start_and_gradients(shape, rng)
    p = on(backend, start)
    buffer = backend.asarray(np.full(shape, np.nan)) if momentum else None  # the first step must not read it
    for step, grad in enumerate(grads):
        params = SGDParams(0.01, momentum, nesterov, weight_decay, step == 0, grad_scale)
        backend.sgd_step(p, on(backend, grad), buffer, params)
    expected, velocity = textbook_sgd(
        start, [grad_scale * grad for grad in grads], 0.01, momentum, weight_decay, nesterov
    )
    assert_close(backend.to_host(p), expected, 2e-6, "parameter")
    if buffer is not None:
        assert_close(backend.to_host(buffer), velocity, 2e-6, "buffer")


def test_a_step_with_no_gradient_and_no_decay_changes_nothing(backend: Any, rng: np.random.Generator) -> None:
    start = rng.normal(size=(5, 7))
    p = on(backend, start)
    before = backend.to_host(p).copy()
    zeros = [backend.zeros((5, 7)) for _ in range(3)]
    backend.adam_step(p, *zeros, AdamParams(0.1, 0.9, 0.999, 1e-8, 0.0, True, 1))
    backend.sgd_step(p, zeros[0], None, SGDParams(0.1, 0.0, False, 0.0, True))
    np.testing.assert_array_equal(backend.to_host(p), before)


def test_nan_gradient_spoils_its_own_parameter_alone(backend: Any) -> None:
    grad = np.ones(40)
    grad[11] = np.nan
    p, m, v = backend.zeros((40,)), backend.zeros((40,)), backend.zeros((40,))
    backend.adam_step(p, on(backend, grad), m, v, AdamParams(0.1, 0.9, 0.999, 1e-8, 0.0, True, 1))
    assert np.flatnonzero(np.isnan(backend.to_host(p))).tolist() == [11]

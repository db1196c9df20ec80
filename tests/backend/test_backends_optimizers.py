"""Optimizer steps on every backend, several in a row, against a textbook in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.clipping import Clipping, HostClipping, LossAndNorm, clip_factor
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


def clipped(grads: list[np.ndarray], max_norm: float | None) -> list[np.ndarray]:
    return [grad * clip_factor(float(np.linalg.norm(grad)), max_norm) for grad in grads]


def start_and_gradients(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[np.ndarray, list[np.ndarray]]:
    """Rounded to float32; gradients of many sizes, from 1e-6 to 10."""
    start = np.float32(0.1 * rng.normal(size=shape)).astype(np.float64)
    sizes = 10 ** rng.uniform(-6, 1, shape)
    return start, [np.float32(sizes * rng.normal(size=shape)).astype(np.float64) for _ in range(N_STEPS)]


@pytest.mark.parametrize("clipped_to", [None, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("decoupled", [True, False], ids=["adamw", "adam"])
@pytest.mark.parametrize("shape", SHAPES)
def test_adam(
    backend: Any,
    shape: tuple[int, ...],
    decoupled: bool,
    weight_decay: float,
    clipped_to: float | None,
    rng: np.random.Generator,
) -> None:
    start, grads = start_and_gradients(shape, rng)
    p, m, v = on(backend, start), backend.zeros(shape), backend.zeros(shape)
    for step, grad in enumerate(grads, 1):
        there = on(backend, grad)
        params = AdamParams(0.01, 0.9, 0.95, 1e-8, weight_decay, decoupled, step)
        backend.adam_steps([(p, there, m, v)], params, backend.plan_clipping([there], clipped_to))
        np.testing.assert_array_equal(backend.to_host(there), grad.astype(backend.dtype))  # the gradient is kept
    truths = textbook_adam(start, clipped(grads, clipped_to), 0.01, 0.9, 0.95, 1e-8, weight_decay, decoupled)
    for name, actual, truth in zip("pmv", (p, m, v), truths, strict=True):
        assert_close(backend.to_host(actual), truth, 2e-6, name, terms=np.abs(start).max() if name == "p" else 0.0)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
@pytest.mark.parametrize("clipped_to", [None, 0.25])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("shape", SHAPES)
def test_sgd(
    backend: Any,
    shape: tuple[int, ...],
    weight_decay: float,
    clipped_to: float | None,
    momentum: float,
    nesterov: bool,
    rng: np.random.Generator,
) -> None:
    start, grads = start_and_gradients(shape, rng)
    p = on(backend, start)
    buffer = backend.asarray(np.full(shape, np.nan)) if momentum else None  # the first step must not read it
    for step, grad in enumerate(grads):
        params, there = SGDParams(0.01, momentum, nesterov, weight_decay, step == 0), on(backend, grad)
        backend.sgd_steps([(p, there, buffer)], params, backend.plan_clipping([there], clipped_to))
    scaled = clipped(grads, clipped_to)
    expected, velocity = textbook_sgd(start, scaled, 0.01, momentum, weight_decay, nesterov)
    assert_close(backend.to_host(p), expected, 2e-6, "parameter", terms=np.abs(start).max())
    if buffer is not None:
        assert_close(backend.to_host(buffer), velocity, 2e-6, "buffer")


def test_a_step_with_no_gradient_and_no_decay_changes_nothing(backend: Any, rng: np.random.Generator) -> None:
    start = rng.normal(size=(5, 7))
    p = on(backend, start)
    before = backend.to_host(p).copy()
    zeros = [backend.zeros((5, 7)) for _ in range(3)]
    backend.adam_steps([(p, zeros[0], zeros[1], zeros[2])], AdamParams(0.1, 0.9, 0.999, 1e-8, 0.0, True, 1))
    backend.sgd_steps([(p, zeros[0], None)], SGDParams(0.1, 0.0, False, 0.0, True))
    np.testing.assert_array_equal(backend.to_host(p), before)


def test_nan_gradient_spoils_its_own_parameter_alone(backend: Any) -> None:
    grad = np.ones(40)
    grad[11] = np.nan
    p, m, v = backend.zeros((40,)), backend.zeros((40,)), backend.zeros((40,))
    backend.adam_steps([(p, on(backend, grad), m, v)], AdamParams(0.1, 0.9, 0.999, 1e-8, 0.0, True, 1))
    assert np.flatnonzero(np.isnan(backend.to_host(p))).tolist() == [11]


ADAM = AdamParams(0.1, 0.9, 0.999, 1e-8, 0.01, True, 1)
SGD = SGDParams(0.1, 0.9, False, 0.01, True)


def updated(backend: Any, starts: list[np.ndarray], grads: list[np.ndarray], clipping: Clipping | None) -> Any:
    """Parameters and states of some parameters after a step of each kind, on the host."""
    there = [on(backend, grad) for grad in grads]
    adam = [
        (on(backend, p), g, backend.zeros(p.shape), backend.zeros(p.shape)) for p, g in zip(starts, there, strict=True)
    ]
    sgd = [
        (on(backend, p), g, backend.zeros(p.shape) if number % 2 else None)
        for number, (p, g) in enumerate(zip(starts, there, strict=True))
    ]
    backend.adam_steps(adam, ADAM, clipping)
    backend.sgd_steps(sgd, SGD, clipping)
    return [[backend.to_host(each).copy() for each in arrays if each is not None] for arrays in (*adam, *sgd)]


def test_many_parameters_in_one_step_are_each_updated_as_if_alone(backend: Any, rng: np.random.Generator) -> None:
    starts, grads = ([rng.normal(size=shape) for shape in [*SHAPES, (0, 3)]] for _ in range(2))
    together = updated(backend, starts, grads, None)
    for index, (start, grad) in enumerate(zip(starts, grads, strict=True)):
        alone = updated(backend, [start], [grad], None)
        for one, other in zip(alone[0], together[index], strict=True):
            np.testing.assert_array_equal(one, other)
        if index % 2 == 0:
            np.testing.assert_array_equal(alone[1][0], together[len(starts) + index][0])


def test_the_norm_is_that_of_all_gradients_together(backend: Any, rng: np.random.Generator) -> None:
    grads = [np.float32(rng.normal(size=shape)) for shape in [*SHAPES, (0, 3)]]
    norm = np.sqrt(sum(np.square(grad, dtype=np.float64).sum() for grad in grads))
    found = backend.plan_clipping([on(backend, grad) for grad in grads], loss=1.25).read()
    assert found.norm == pytest.approx(norm, rel=1e-12)
    assert found.loss == 1.25
    loss = backend.asarray(np.array(-0.5), np.float64)
    assert backend.plan_clipping([on(backend, grad) for grad in grads], 0.1, loss).read().loss == -0.5


def test_a_norm_beyond_float32_is_clipped(backend: Any) -> None:
    grads = [on(backend, np.full(5000, 1e38)) for _ in range(2)]
    clipping = backend.plan_clipping(grads, max_norm=100.0)
    assert clipping.read().norm == pytest.approx(1e40, rel=1e-6)
    p = backend.zeros((5000,))
    backend.sgd_steps([(p, grads[0], None)], SGDParams(1.0, 0.0, False, 0.0, True), clipping)
    np.testing.assert_allclose(backend.to_host(p), -1.0, rtol=1e-5)


@pytest.mark.parametrize("max_norm", [None, 1.0])
@pytest.mark.parametrize(("grad", "loss"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, -np.inf)])
def test_a_loss_or_norm_that_is_not_finite_changes_nothing(
    backend: Any, grad: float, loss: float, max_norm: float | None, rng: np.random.Generator
) -> None:
    starts, grads = ([rng.normal(size=shape) for shape in SHAPES] for _ in range(2))
    grads[2][1, 3] = grad
    clipping = backend.plan_clipping(
        [on(backend, each) for each in grads], max_norm, backend.asarray(np.array(loss), np.float64)
    )
    assert not clipping.read().are_finite
    for start, arrays in zip(starts * 2, updated(backend, starts, grads, clipping), strict=True):
        np.testing.assert_array_equal(arrays[0], start.astype(np.float32))
        assert not any(state.any() for state in arrays[2:])


def test_a_clipping_of_another_backend_is_refused(backend: Any) -> None:
    class Foreign:
        def read(self) -> LossAndNorm:
            return LossAndNorm(1.0, 1.0)

    arrays = [(backend.zeros((3,)), backend.zeros((3,)), None)]
    with pytest.raises(TypeError, match="not a Foreign"):
        backend.sgd_steps(arrays, SGD, Foreign())
    if backend.name == "cuda":
        with pytest.raises(TypeError, match="not a HostClipping"):
            backend.sgd_steps(arrays, SGD, HostClipping(LossAndNorm(1.0, 1.0), None))

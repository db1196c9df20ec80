"""ENT-014: optimizers go where theory says they go, on problems whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.autograd.ops import elementwise, matmul, reduce, shape
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.optim.adam import Adam, AdamW
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.clip import clip
from entrenar_core.optim.schedule import Schedule
from entrenar_core.optim.sgd import SGD
from tests.optim.test_optimizers import DOUBLE, parameter

pytestmark = pytest.mark.property

Loss = Callable[[Tensor], Tensor]


def descend(
    loss: Loss, point: Tensor, optimizer: Optimizer, schedule: Schedule, steps: int, max_norm: float | None = None
) -> list[float]:
    """The losses before each step and after the last."""
    losses = []
    for step in range(steps):
        with Tape() as tape:
            value = loss(point)
        tape.backward(value)
        losses.append(float(value.data))
        optimizer.step(schedule.learning_rate(step), clip(optimizer.parameters, max_norm))
        optimizer.zero_grad()
    return [*losses, float(loss(point).data)]


def constant(lr: float) -> Schedule:
    return Schedule("constant", peak=lr, total_steps=1)


def quadratic(eigenvalues: np.ndarray, seed: int) -> Loss:
    """x ↦ ½ xᵀ A x for x [1, n], with A symmetric of these eigenvalues in a random basis."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(eigenvalues),) * 2))
    matrix = Tensor(np.ascontiguousarray(basis * eigenvalues @ basis.T), DOUBLE)

    def loss(x: Tensor) -> Tensor:
        return elementwise.scale(reduce.sum_(elementwise.multiply(matmul.matmul(x, matrix), x)), 0.5)

    return loss


def rosenbrock(x: Tensor) -> Tensor:
    """(1 - a)² + 100(b - a²)² for x = [[a, b]]; its minimum is 0 at (1, 1), along a curved valley."""
    a, b = (shape.slice_(x, (slice(None), slice(i, i + 1))) for i in range(2))
    across = elementwise.subtract(b, elementwise.multiply(a, a))
    along = elementwise.subtract(Tensor(np.ones((1, 1)), DOUBLE), a)
    squares = elementwise.add(
        elementwise.multiply(along, along), elementwise.scale(elementwise.multiply(across, across), 100.0)
    )
    return reduce.sum_(squares)


SPECTRA = st.lists(st.floats(0.1, 10), min_size=1, max_size=6).map(np.array)


@given(eigenvalues=SPECTRA, seed=st.integers(0, 99), share=st.floats(0.05, 1.95))
def test_gradient_descent_never_climbs_a_quadratic_below_the_stability_limit(
    eigenvalues: np.ndarray, seed: int, share: float
) -> None:
    point = parameter("x", np.random.default_rng(seed).normal(size=(1, len(eigenvalues))))
    losses = descend(quadratic(eigenvalues, seed), point, SGD({"x": point}), constant(share / eigenvalues.max()), 20)
    assert all(after <= before * (1 + 1e-12) for before, after in pairwise(losses))


@given(eigenvalues=SPECTRA, seed=st.integers(0, 99))
def test_gradient_descent_converges_at_the_rate_of_the_condition_number(eigenvalues: np.ndarray, seed: int) -> None:
    point = parameter("x", np.random.default_rng(seed).normal(size=(1, len(eigenvalues))))
    losses = descend(quadratic(eigenvalues, seed), point, SGD({"x": point}), constant(1 / eigenvalues.max()), 30)
    rate = 1 - eigenvalues.min() / eigenvalues.max()
    bounds = losses[0] * rate ** (2 * np.arange(len(losses)))
    assert np.all(np.array(losses) <= bounds * (1 + 1e-9) + 1e-12)


@given(eigenvalues=SPECTRA, seed=st.integers(0, 99))
def test_heavy_ball_and_nesterov_reach_the_bottom_of_a_quadratic(eigenvalues: np.ndarray, seed: int) -> None:
    start = np.random.default_rng(seed).normal(size=(1, len(eigenvalues)))
    for nesterov in (False, True):
        point = parameter("x", start)
        optimizer = SGD({"x": point}, momentum=0.8, nesterov=nesterov)
        losses = descend(quadratic(eigenvalues, seed), point, optimizer, constant(0.5 / eigenvalues.max()), 300)
        assert losses[-1] < 1e-3 * losses[0] + 1e-9


@given(eigenvalues=SPECTRA, seed=st.integers(0, 99), scale=st.floats(1e-3, 1e3))
def test_adam_takes_the_same_path_when_the_loss_is_scaled(eigenvalues: np.ndarray, seed: int, scale: float) -> None:
    start = np.random.default_rng(seed).normal(size=(1, len(eigenvalues)))
    ends = []
    for factor in (1.0, scale):
        point = parameter("x", start)
        optimizer = Adam({"x": point}, eps=1e-30)
        descend(quadratic(eigenvalues * factor, seed), point, optimizer, constant(0.01), 10)
        ends.append(point.data)
    np.testing.assert_allclose(ends[1], ends[0], rtol=1e-6, atol=1e-9)


@given(grads=st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_an_adam_step_is_never_much_longer_than_the_learning_rate(grads: list[float]) -> None:
    point = parameter("x", [[0.0]])
    optimizer = Adam({"x": point})
    longest = max(1.0, (1 - 0.9) / np.sqrt(1 - 0.999))  # Kingma & Ba 2015, section 2.1
    for grad in grads:
        before = point.data.copy()
        point.slot.grad = np.array([[grad]])
        optimizer.step(lr=0.1)
        assert abs(point.data - before).max() <= 0.1 * longest * (1 + 1e-9)


@pytest.mark.parametrize(
    ("make", "lr", "steps"),
    [
        (lambda p: SGD(p, momentum=0.9), 5e-4, 3000),
        (lambda p: SGD(p, momentum=0.9, nesterov=True), 5e-4, 3000),
        (Adam, 0.05, 2000),
        (lambda p: AdamW(p, weight_decay=0.0), 0.05, 2000),
    ],
)
def test_rosenbrocks_valley_is_followed_to_its_end(
    make: Callable[[dict[str, Tensor]], Optimizer], lr: float, steps: int
) -> None:
    point = parameter("x", [[-1.2, 1.0]])
    schedule = Schedule("cosine", peak=lr, total_steps=steps, warmup_steps=20, min_lr_ratio=0.1)
    losses = descend(rosenbrock, point, make({"x": point}), schedule, steps, max_norm=100.0)
    assert losses[-1] < 0.05 < losses[0]


def test_weight_decay_pulls_the_solution_towards_zero() -> None:
    ends = []
    for decay in (0.0, 0.3):
        point = parameter("x", [[3.0]])
        target = Tensor(np.array([[2.0]]), DOUBLE)

        def loss(x: Tensor, target: Tensor = target) -> Tensor:
            difference = elementwise.subtract(x, target)
            return reduce.sum_(elementwise.multiply(difference, difference))

        descend(loss, point, AdamW({"x": point}, weight_decay=decay), constant(0.05), 400)
        ends.append(float(point.data[0, 0]))
    assert ends[0] == pytest.approx(2.0, abs=1e-3)
    assert 0 < ends[1] < 2.0 - 1e-3

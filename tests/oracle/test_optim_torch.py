"""Optimizers, clipping and schedules against torch.optim and transformers, over fifty steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.clipping import clip_factor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.optim.adam import Adam, AdamW
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.clip import clip
from entrenar_core.optim.schedule import Schedule
from entrenar_core.optim.sgd import SGD

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")

pytestmark = pytest.mark.oracle

STEPS = 50
SHAPES = {"a.weight": (5, 7), "b.weight": (3, 4)}
Make = Callable[[Any], Any]

CASES: dict[str, tuple[Make, Make]] = {
    "sgd": (SGD, lambda p: torch.optim.SGD(p, lr=1.0)),
    "sgd decay": (lambda p: SGD(p, weight_decay=0.1), lambda p: torch.optim.SGD(p, lr=1.0, weight_decay=0.1)),
    "sgd momentum": (
        lambda p: SGD(p, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, weight_decay=0.01),
    ),
    "sgd nesterov": (
        lambda p: SGD(p, momentum=0.9, nesterov=True, weight_decay=0.01),
        lambda p: torch.optim.SGD(p, lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.01),
    ),
    "adam": (Adam, lambda p: torch.optim.Adam(p, lr=1.0)),
    "adam decay": (
        lambda p: Adam(p, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=1.0, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (AdamW, lambda p: torch.optim.AdamW(p, lr=1.0)),
    "adamw decay": (
        lambda p: AdamW(p, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.3),
        lambda p: torch.optim.AdamW(p, lr=1.0, betas=(0.9, 0.95), eps=1e-6, weight_decay=0.3),
    ),
}


DOUBLE = ReferenceBackend(np.float64)
BACKENDS: dict[str, tuple[Callable[[], Any], float]] = {
    "double": (lambda: DOUBLE, 1e-12),
    "single": (lambda: ReferenceBackend(np.float32), 2e-6),
    "cpu": (lambda: CpuBackend(threads=2), 2e-6),
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend_and_tolerance(request: pytest.FixtureRequest) -> Iterator[tuple[Backend, float]]:
    make, tolerance = BACKENDS[request.param]
    backend = make()
    yield backend, tolerance
    backend.close()


def tensors(backend: Backend, rng: np.random.Generator) -> tuple[dict[str, Tensor], list[Any]]:
    """The same random parameters for us and for torch."""
    values = {name: rng.normal(size=shape).astype(backend.dtype) for name, shape in SHAPES.items()}
    ours = {
        name: Tensor(backend.asarray(v.copy()), backend, requires_grad=True, name=name) for name, v in values.items()
    }
    return ours, [torch.tensor(value, requires_grad=True) for value in values.values()]


def gradients(ours: dict[str, Tensor], theirs: list[Any], rng: np.random.Generator) -> Iterator[int]:
    """Give both the same random gradients, once for each step."""
    for step in range(STEPS):
        for tensor, other in zip(ours.values(), theirs, strict=True):
            grad = rng.normal(scale=3.0 / (1 + step), size=tensor.shape).astype(tensor.data.dtype)
            tensor.slot.grad = grad.copy()
            other.grad = torch.tensor(grad)
        yield step


@pytest.mark.parametrize("case", CASES)
def test_fifty_steps_with_a_schedule(
    case: str, backend_and_tolerance: tuple[Backend, float], rng: np.random.Generator
) -> None:
    backend, tolerance = backend_and_tolerance
    ours, theirs = tensors(backend, rng)
    optimizer: Optimizer = CASES[case][0](ours)
    other = CASES[case][1](theirs)
    schedule = Schedule("cosine", peak=0.01, total_steps=STEPS, warmup_steps=5, min_lr_ratio=0.1)
    for step in gradients(ours, theirs, rng):
        other.param_groups[0]["lr"] = schedule.learning_rate(step)
        other.step()
        optimizer.step(schedule.learning_rate(step))
        for tensor, expected in zip(ours.values(), theirs, strict=True):
            reference = expected.detach().numpy()
            assert np.linalg.norm(tensor.data - reference) <= tolerance * np.linalg.norm(reference)


@pytest.mark.parametrize("max_norm", [0.5, 5.0, 1e6])
def test_clipping_by_the_global_norm(max_norm: float, rng: np.random.Generator) -> None:
    ours, theirs = tensors(DOUBLE, rng)
    for _ in gradients(ours, theirs, rng):
        norm = clip(ours, max_norm).read().norm
        factor = clip_factor(norm, max_norm)
        expected = float(torch.nn.utils.clip_grad_norm_(theirs, max_norm))
        assert norm == pytest.approx(expected, rel=1e-12)
        for tensor, other in zip(ours.values(), theirs, strict=True):
            np.testing.assert_allclose(tensor.grad * factor, other.grad.numpy(), rtol=1e-12)


def transformers_rates(name: str, warmup: int, ratio: float) -> list[float]:
    """What transformers' schedule sets for each of the steps, for a peak of 1."""
    optimization = pytest.importorskip(
        "transformers.optimization", reason="transformers is not installed (extra: oracle)"
    )
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    if name == "constant":
        schedule = optimization.get_constant_schedule_with_warmup(optimizer, warmup)
    elif name == "linear":
        schedule = optimization.get_polynomial_decay_schedule_with_warmup(
            optimizer, warmup, STEPS, lr_end=ratio, power=1.0
        )
    else:
        schedule = optimization.get_cosine_with_min_lr_schedule_with_warmup(optimizer, warmup, STEPS, min_lr_rate=ratio)
    rates = []
    for _ in range(STEPS):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("ratio", [0.0, 0.1])
@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("name", ["constant", "linear", "cosine"])
def test_schedules_equal_transformers_from_the_end_of_the_warm_up_on(name: str, warmup: int, ratio: float) -> None:
    schedule = Schedule(name, peak=1.0, total_steps=STEPS, warmup_steps=warmup, min_lr_ratio=ratio)
    rates = [schedule.learning_rate(step) for step in range(STEPS)]
    expected = transformers_rates(name, warmup, ratio)
    assert rates[warmup:] == pytest.approx(expected[warmup:], rel=1e-12)


@pytest.mark.parametrize("warmup", [1, 7])
def test_our_warm_up_is_one_step_ahead_of_transformers_whose_first_step_has_rate_zero(warmup: int) -> None:
    schedule = Schedule("linear", peak=1.0, total_steps=STEPS, warmup_steps=warmup)
    expected = transformers_rates("linear", warmup, 0.0)
    assert expected[0] == 0
    rates = [schedule.learning_rate(step) for step in range(warmup)]
    assert rates == pytest.approx(expected[1 : warmup + 1], rel=1e-12)


def test_cosine_equals_torchs_annealing() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.3)
    annealing = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=STEPS, eta_min=0.03)
    schedule = Schedule("cosine", peak=0.3, total_steps=STEPS, min_lr_ratio=0.1)
    for step in range(STEPS):
        assert schedule.learning_rate(step) == pytest.approx(annealing.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        annealing.step()

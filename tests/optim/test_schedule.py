"""Learning rates against their closed forms. Steps count from 0."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.optim.schedule import KINDS, Schedule, warmup_steps

KIND = pytest.mark.parametrize("kind", KINDS)


def test_constant_stays() -> None:
    schedule = Schedule("constant", peak=0.1, total_steps=10)
    assert [schedule.learning_rate(step) for step in range(12)] == [0.1] * 12


def test_linear_falls_by_equal_amounts_to_zero_one_step_after_the_last() -> None:
    schedule = Schedule("linear", peak=1.0, total_steps=4)
    assert [schedule.learning_rate(step) for step in range(5)] == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_cosine_is_half_way_down_in_the_middle() -> None:
    schedule = Schedule("cosine", peak=2.0, total_steps=8)
    assert schedule.learning_rate(0) == 2.0
    assert schedule.learning_rate(2) == pytest.approx(1 + math.cos(math.pi / 4))
    assert schedule.learning_rate(4) == pytest.approx(1.0)
    assert schedule.learning_rate(8) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_the_floor_is_a_share_of_the_peak(kind: str) -> None:
    schedule = Schedule(kind, peak=2.0, total_steps=10, min_lr_ratio=0.1)
    assert schedule.learning_rate(10) == pytest.approx(0.2)
    assert schedule.learning_rate(5) == pytest.approx(1.1)


@KIND
def test_warm_up_rises_from_one_share_to_the_peak(kind: str) -> None:
    schedule = Schedule(kind, peak=1.0, total_steps=20, warmup_steps=4)
    assert [schedule.learning_rate(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]


@KIND
def test_the_first_step_learns_something(kind: str) -> None:
    assert Schedule(kind, peak=1.0, total_steps=1).learning_rate(0) == 1.0
    assert Schedule(kind, peak=1.0, total_steps=1, warmup_steps=100).learning_rate(0) == 0.01


def test_warm_up_is_a_number_of_steps_or_a_fraction_rounded_up() -> None:
    assert warmup_steps(7, total_steps=1000) == 7
    assert warmup_steps(0.05, total_steps=1000) == 50
    assert warmup_steps(0.07, total_steps=100) == 7
    assert warmup_steps(0.05, total_steps=30) == 2
    assert warmup_steps(0.0, total_steps=30) == 0


@pytest.mark.property
@given(
    kind=st.sampled_from(KINDS),
    peak=st.floats(1e-8, 10),
    total=st.integers(1, 500),
    warmup=st.integers(0, 600),
    ratio=st.floats(0, 1),
)
def test_it_rises_to_the_peak_and_never_again(kind: str, peak: float, total: int, warmup: int, ratio: float) -> None:
    schedule = Schedule(kind, peak, total, warmup, ratio)
    rates = [schedule.learning_rate(step) for step in range(total + 5)]
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert 0 <= min(rates) <= max(rates) <= peak * (1 + 1e-12)
    assert all(rate > 0 for rate in rates[:total])

"""The global norm of all gradients, and the factor that brings it under a limit."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.backend.clipping import clip_factor
from entrenar_core.errors import AutogradError
from entrenar_core.optim.clip import clip
from tests.optim.test_optimizers import parameter


def test_the_norm_is_taken_over_all_gradients_together() -> None:
    parameters = {"a": parameter("a", [[0.0, 0.0]], [[3.0, 0.0]]), "b": parameter("b", [0.0], [4.0])}
    assert clip(parameters, None).read().norm == 5.0


def test_it_is_summed_in_double() -> None:
    single = np.float32(1e25)  # its square is over the largest float32
    parameters = {"a": parameter("a", [[0.0]], [[single]])}
    assert clip(parameters, None).read().norm == pytest.approx(1e25)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_shows(bad: float) -> None:
    found = clip({"a": parameter("a", [0.0, 0.0], [1.0, bad])}, None, loss=1.0).read()
    assert not math.isfinite(found.norm)
    assert not found.are_finite


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_that_is_not_finite_shows(bad: float) -> None:
    found = clip({"a": parameter("a", [0.0], [1.0])}, None, np.array(bad)).read()
    assert math.isfinite(found.norm)
    assert not found.are_finite


def test_a_missing_gradient_is_an_error() -> None:
    with pytest.raises(AutogradError, match="'a'"):
        clip({"a": parameter("a", [0.0])}, None)


def test_a_small_norm_is_left_alone() -> None:
    assert clip_factor(0.5, max_norm=1.0) == 1.0
    assert clip_factor(0.0, max_norm=1.0) == 1.0


def test_a_large_norm_is_divided_away() -> None:
    assert clip_factor(4.0, max_norm=1.0) == 1.0 / (4.0 + 1e-6)


def test_without_a_limit_nothing_is_clipped() -> None:
    assert clip_factor(1e9, max_norm=None) == 1.0


@pytest.mark.property
@given(norm=st.floats(0, 1e30), limit=st.floats(1e-6, 1e6))
def test_the_clipped_norm_is_within_the_limit(norm: float, limit: float) -> None:
    factor = clip_factor(norm, limit)
    assert 0 < factor <= 1
    assert factor * norm <= limit * (1 + 1e-15)
    assert factor == 1 or factor == limit / (norm + 1e-6)

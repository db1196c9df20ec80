"""More than two models by SLERP: known angles on a circle, shares, and what a tree does with an odd one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import floats, merged, merged_in_pieces
from tests.merge.oracle import slerp

METHODS = ("iterative_slerp", "hierarchical")


def at(degrees: float) -> np.ndarray:
    return floats(math.cos(math.radians(degrees)), math.sin(math.radians(degrees)))


@pytest.mark.parametrize("method", METHODS)
def test_equal_weights_give_equal_shares_of_a_circle(method: str) -> None:
    """On a circle SLERP is the weighted mean of the angles, whatever the order."""
    for angles in ([0, 90], [0, 30, 120], [10, 50, 60, 100], [0, 20, 40, 60, 80]):
        found = merged(method, [at(angle) for angle in angles])
        np.testing.assert_allclose(found, at(float(np.mean(angles))), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_shares_of_the_way(method: str) -> None:
    found = merged(method, [at(0), at(40), at(100)], weight=[2.0, 1.0, 1.0])
    np.testing.assert_allclose(found, at((40 + 100) / 4), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_zero_leaves_a_model_out(method: str) -> None:
    found = merged(method, [at(0), at(40), at(100)], weight=[1.0, 0.0, 1.0])
    np.testing.assert_allclose(found, at(50), rtol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_one_model_is_itself_and_two_are_slerp(method: str, rng: np.random.Generator) -> None:
    first, second = rng.standard_normal((2, 3, 4)).astype(np.float32)
    assert merged(method, [first]).tolist() == first.tolist()
    assert merged(method, [first, second]).tolist() == merged("slerp", [first, second], t=0.5).tolist()


def test_weights_that_cancel_meet_halfway() -> None:
    found = merged("iterative_slerp", [at(0), at(60)], weight=[1.0, -1.0])
    np.testing.assert_allclose(found, at(30), rtol=1e-5)


def test_one_after_another_and_a_tree_differ_off_the_circle(rng: np.random.Generator) -> None:
    models = list(rng.standard_normal((5, 3, 4)).astype(np.float32))
    one_by_one = models[0].astype(np.float64)
    for count, model in enumerate(models[1:], 1):
        one_by_one = slerp(one_by_one, model, 1 / (count + 1))
    np.testing.assert_allclose(merged("iterative_slerp", models), one_by_one, rtol=1e-4, atol=1e-5)
    left, right = slerp(models[0], models[1], 0.5), slerp(models[2], models[3], 0.5)
    tree = slerp(slerp(left, right, 0.5), models[4], 1 / 5)
    np.testing.assert_allclose(merged("hierarchical", models), tree, rtol=1e-4, atol=1e-5)


@pytest.mark.property
@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 2**32 - 1), n_models=st.integers(2, 6), rows=st.integers(1, 4), exponent=st.integers(-8, 8))
def test_equal_models_scale_and_pieces(method: str, seed: int, n_models: int, rows: int, exponent: int) -> None:
    rng = np.random.default_rng(seed)
    models = list(rng.standard_normal((n_models, 4, 3)).astype(np.float32))
    weights = [float(weight) for weight in rng.uniform(0.2, 1, n_models)]
    whole = merged(method, models, weight=weights)
    pieces = merged_in_pieces(method, models, rows=rows, order=rng, weight=weights)
    np.testing.assert_array_equal(pieces, whole)
    factor = np.float32(2.0**exponent)
    scaled = merged(method, [factor * model for model in models], weight=weights)
    np.testing.assert_allclose(scaled, factor * whole, rtol=1e-5, atol=1e-6 * float(factor))
    same = merged(method, models[:1] * n_models, weight=weights)
    np.testing.assert_allclose(same, models[0], rtol=1e-6, atol=1e-7)

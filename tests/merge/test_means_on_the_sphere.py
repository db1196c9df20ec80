"""MultiSLERP and the Karcher mean: closed forms, zero vectors, and the laws of means."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import floats, merged, merged_in_pieces
from tests.merge.oracle import karcher

X, Y = floats(1, 0, 0), floats(0, 1, 0)
HALF = math.sqrt(0.5)


def at(degrees: float, length: float = 1.0) -> np.ndarray:
    return floats(length * math.cos(math.radians(degrees)), length * math.sin(math.radians(degrees)))


@pytest.mark.parametrize("method", ["multislerp", "karcher"])
def test_between_two_models_is_the_middle_of_the_arc_with_the_mean_norm(method: str) -> None:
    np.testing.assert_allclose(merged(method, [X, 3 * Y], normalize=True), [2 * HALF, 2 * HALF, 0], rtol=1e-6)


def test_multislerp_goes_along_the_weighted_sum_of_directions() -> None:
    """Directions (3, 1)/4 are (3, 1)/√10; norms 1 and 5 with weights 3/4 and 1/4 have the mean 2."""
    found = merged("multislerp", [X, 5 * Y], weight=[3.0, 1.0], normalize=True)
    np.testing.assert_allclose(found, np.array([6, 2, 0]) / math.sqrt(10), rtol=1e-6)


def test_multislerp_without_normalize_adds_up_the_norms() -> None:
    found = merged("multislerp", [X, 5 * Y], weight=[3.0, 1.0])
    np.testing.assert_allclose(found, 8 * np.array([3, 1, 0]) / math.sqrt(10), rtol=1e-6)


def test_multislerp_of_directions_that_cancel_is_the_weighted_sum() -> None:
    assert merged("multislerp", [X, -3 * X], weight=[1.0, 1.0], normalize=True).tolist() == [-1, 0, 0]


def test_multislerp_takes_short_vectors_for_shorter_by_eps() -> None:
    """With an eps of 1/4, 4/5 of a direction is left of a vector of length 1, and 12/13 of one of length 3."""
    found = merged("multislerp", [X, 3 * Y], normalize=True, eps=0.25)
    direction = np.array([4 / 5, 12 / 13, 0]) / math.hypot(4 / 5, 12 / 13)
    np.testing.assert_allclose(found, 2 * direction, rtol=1e-6)


def test_multislerp_over_a_base_is_about_the_changes() -> None:
    base = floats(10, 20, 30)
    found = merged("multislerp", [base + X, base + 3 * Y], base, normalize=True)
    np.testing.assert_allclose(found, floats(10 + 2 * HALF, 20 + 2 * HALF, 30), rtol=1e-6)


def test_karcher_on_a_circle_is_the_mean_angle_and_multislerp_is_not() -> None:
    models = [at(0), at(10), at(110)]
    np.testing.assert_allclose(merged("karcher", models), at(40), rtol=1e-5)
    direction = merged("multislerp", models, normalize=True)
    assert math.degrees(math.atan2(direction[1], direction[0])) == pytest.approx(34.126, abs=1e-3)


def test_karcher_counts_a_base_as_one_more_model() -> None:
    found = merged("karcher", [at(0), at(10)], at(110, 4))
    np.testing.assert_allclose(found, at(40, 2), rtol=1e-5)


def test_karcher_counts_zero_vectors_for_the_norm_alone() -> None:
    zero = floats(0, 0)
    np.testing.assert_allclose(merged("karcher", [at(0, 3), zero, at(90, 3)]), at(45, 2), rtol=1e-6)
    assert merged("karcher", [zero, zero]).tolist() == [0, 0]


def test_karcher_of_opposite_models_stays_with_the_first_direction() -> None:
    np.testing.assert_allclose(merged("karcher", [at(30, 3), -at(30, 1)]), at(30, 2), rtol=1e-6)


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), n_models=st.integers(2, 5), rows=st.integers(1, 5), has_base=st.booleans())
def test_karcher_is_the_mean_on_the_sphere_however_the_tensor_is_cut(
    seed: int, n_models: int, rows: int, has_base: bool
) -> None:
    rng = np.random.default_rng(seed)
    centre, *models = rng.standard_normal((1 + n_models, 5, 4)).astype(np.float32)
    models = [2 * centre + model for model in models]
    base = centre if has_base else None
    whole = merged("karcher", models, base)
    expected = karcher([*models, centre] if has_base else models)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(merged_in_pieces("karcher", models, base, rows=rows, order=rng), whole)


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), n_models=st.integers(2, 5), rows=st.integers(1, 5), has_base=st.booleans())
def test_multislerp_is_the_sum_of_directions_however_the_tensor_is_cut(
    seed: int, n_models: int, rows: int, has_base: bool
) -> None:
    rng = np.random.default_rng(seed)
    centre, *models = rng.standard_normal((1 + n_models, 5, 4)).astype(np.float32)
    base = centre if has_base else None
    weights = [float(weight) for weight in rng.uniform(0.2, 1, n_models)]
    vectors = [model.astype(np.float64) - (centre if has_base else 0) for model in models]
    mean = sum(weight * vector / np.linalg.norm(vector) for weight, vector in zip(weights, vectors, strict=True))
    norm = np.average([np.linalg.norm(vector) for vector in vectors], weights=weights)
    expected = norm * mean / np.linalg.norm(mean) + (centre if has_base else 0)
    whole = merged("multislerp", models, base, weight=weights, normalize=True)
    np.testing.assert_allclose(whole, expected, rtol=1e-4, atol=1e-4)
    pieces = merged_in_pieces("multislerp", models, base, rows=rows, order=rng, weight=weights, normalize=True)
    np.testing.assert_array_equal(pieces, whole)


@pytest.mark.property
@pytest.mark.parametrize("method", ["multislerp", "karcher"])
@given(seed=st.integers(0, 2**32 - 1), n_models=st.integers(2, 5), exponent=st.integers(-8, 8), data=st.data())
def test_means_keep_equal_models_follow_a_scale_and_know_no_order(
    method: str, seed: int, n_models: int, exponent: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    centre = 3 * rng.standard_normal(6)
    models = [(centre + rng.standard_normal(6)).astype(np.float32) for _ in range(n_models)]
    order, factor = data.draw(st.permutations(range(n_models))), np.float32(2.0**exponent)
    plain = merged(method, models, normalize=True)
    same = merged(method, models[:1] * n_models, normalize=True)
    np.testing.assert_allclose(same, models[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(merged(method, [models[i] for i in order], normalize=True), plain, rtol=1e-4, atol=1e-5)
    scaled = merged(method, [factor * model for model in models], normalize=True)
    np.testing.assert_allclose(scaled, factor * plain, rtol=1e-5, atol=1e-6 * float(factor))

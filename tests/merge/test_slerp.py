"""SLERP: points on known circles, the ends, and the laws of rotations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from entrenar_core.merge.slerp import slerp_coefficients
from tests.merge.merging import floats, merged, merged_in_pieces
from tests.merge.oracle import slerp

X, Y = floats(1, 0, 0), floats(0, 1, 0)
VECTORS = st.lists(st.floats(-8, 8, width=32), min_size=4, max_size=4)
WAYS = st.floats(0, 1)


def test_a_third_of_a_right_angle_is_thirty_degrees() -> None:
    found = merged("slerp", [X, Y], t=1 / 3)
    np.testing.assert_allclose(found, [math.cos(math.pi / 6), math.sin(math.pi / 6), 0], rtol=1e-6)


def test_the_norm_goes_from_the_one_to_the_other() -> None:
    found = merged("slerp", [X, 3 * Y], t=0.5)
    np.testing.assert_allclose(found, [math.sqrt(0.5), 3 * math.sqrt(0.5), 0], rtol=1e-6)


def test_a_tensor_counts_as_one_vector() -> None:
    first, second = np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32)[::-1]
    found = merged("slerp", [first, second], t=0.5)
    np.testing.assert_allclose(found, np.full((2, 2), math.sqrt(0.5)), rtol=1e-6)


def test_nearly_parallel_vectors_are_interpolated_linearly() -> None:
    first, second = floats(1, 0), floats(1, 0.031)
    assert first @ second / np.linalg.norm(second) > 0.9995
    np.testing.assert_allclose(merged("slerp", [first, second], t=0.25), [1, 0.031 / 4], rtol=1e-6)
    assert merged("slerp", [first, -first], t=0.25).tolist() == [0.5, 0]


def test_a_little_further_apart_they_are_not() -> None:
    first, second = floats(1, 0), floats(1, 0.033)
    found = merged("slerp", [first, second], t=0.5)
    length = math.sqrt(2 * (math.cos(math.atan(0.033)) * math.hypot(1, 0.033)) + 1 + math.hypot(1, 0.033) ** 2) / 2
    assert found[0] / (first + second)[0] * 2 == pytest.approx(1 / math.cos(math.atan(0.033) / 2), rel=1e-6)
    assert np.linalg.norm(found) > length


def test_a_zero_vector_has_a_right_angle_to_everything() -> None:
    zero = floats(0, 0)
    np.testing.assert_allclose(merged("slerp", [zero, floats(4, -8)], t=1 / 3), [2, -4], rtol=1e-6)
    np.testing.assert_allclose(merged("slerp", [floats(4, -8), zero], t=2 / 3), [2, -4], rtol=1e-6)
    assert merged("slerp", [zero, zero], t=0.25).tolist() == [0, 0]


def test_coefficients_of_vectors_at_sixty_degrees() -> None:
    halfway = math.sin(math.pi / 6) / math.sin(math.pi / 3)
    assert slerp_coefficients(0.5, 0.5) == pytest.approx((halfway, halfway))


@pytest.mark.property
@given(first=VECTORS, second=VECTORS)
def test_the_ends_are_the_models_themselves(first: list[float], second: list[float]) -> None:
    a, b = np.array(first, np.float32), np.array(second, np.float32)
    assert (merged("slerp", [a, b], t=0.0) == a).all()
    np.testing.assert_allclose(merged("slerp", [a, b], t=1.0), b, rtol=1e-6, atol=1e-37)


@pytest.mark.property
@given(first=VECTORS, second=VECTORS, t=WAYS)
def test_the_way_back_is_the_same_way(first: list[float], second: list[float], t: float) -> None:
    a, b = np.array(first, np.float32), np.array(second, np.float32)
    there, back = merged("slerp", [a, b], t=t), merged("slerp", [b, a], t=1 - t)
    np.testing.assert_allclose(there, back, rtol=1e-4, atol=1e-4)


@pytest.mark.property
@given(vector=VECTORS, t=WAYS)
def test_a_model_with_itself_is_that_model(vector: list[float], t: float) -> None:
    a = np.array(vector, np.float32)
    np.testing.assert_allclose(merged("slerp", [a, a], t=t), a, rtol=1e-6, atol=1e-37)


@pytest.mark.property
@given(first=VECTORS, second=VECTORS, t=WAYS, exponent=st.integers(-8, 8))
def test_scaled_models_give_the_scaled_result(first: list[float], second: list[float], t: float, exponent: int) -> None:
    a, b, factor = np.array(first, np.float32), np.array(second, np.float32), np.float32(2.0**exponent)
    scaled, plain = merged("slerp", [factor * a, factor * b], t=t), merged("slerp", [a, b], t=t)
    np.testing.assert_allclose(scaled, factor * plain, rtol=1e-6, atol=1e-37)


@pytest.mark.property
@given(first=VECTORS, second=VECTORS, t=WAYS)
def test_between_unit_vectors_every_step_is_a_unit_vector(first: list[float], second: list[float], t: float) -> None:
    a, b = np.array(first), np.array(second)
    assume(np.linalg.norm(a) > 0.1 and np.linalg.norm(b) > 0.1)
    a, b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    assume(abs(a @ b) < 0.999)
    found = merged("slerp", [a.astype(np.float32), b.astype(np.float32)], t=t)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), t=WAYS, rows=st.integers(1, 6))
def test_it_is_the_rotation_however_the_tensor_is_cut(seed: int, t: float, rows: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((2, 6, 5)).astype(np.float32)
    whole = merged("slerp", [a, b], t=t)
    np.testing.assert_allclose(whole, slerp(a, b, t), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(merged_in_pieces("slerp", [a, b], t=t, rows=rows, order=rng), whole)

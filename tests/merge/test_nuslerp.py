"""NuSLERP: what counts as a vector, how far the weights go, and what a base does."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import floats, merged, merged_in_pieces
from tests.merge.oracle import slerp

X, Y = floats(2, 0), floats(0, 2)
SHAPE = (5, 4)


def oracle(first: np.ndarray, second: np.ndarray, t: float, flatten: bool, row_wise: bool) -> np.ndarray:
    if flatten:
        return slerp(first, second, t)
    if row_wise:
        first, second = first.T, second.T
    rows = np.array([slerp(a, b, t) for a, b in zip(first, second, strict=True)])
    return rows.T if row_wise else rows


def test_the_way_is_the_second_models_part_of_the_weights() -> None:
    found = merged("nuslerp", [X, Y], weight=[2.0, 1.0])
    np.testing.assert_allclose(found, [2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)], rtol=1e-6)


def test_weights_that_cancel_go_halfway() -> None:
    found = merged("nuslerp", [X, Y], weight=[1.0, -1.0])
    np.testing.assert_allclose(found, [math.sqrt(2), math.sqrt(2)], rtol=1e-6)


def test_over_a_base_it_is_the_changes_that_are_turned() -> None:
    base = floats(10, 20)
    found = merged("nuslerp", [base + X, base + Y], base, weight=[2.0, 1.0])
    np.testing.assert_allclose(found, [10 + 2 * math.cos(math.pi / 6), 20 + 2 * math.sin(math.pi / 6)], rtol=1e-6)


def test_nearly_parallel_vectors_are_still_turned() -> None:
    first, second = floats(1, 0), floats(math.cos(0.01), math.sin(0.01))
    found = merged("nuslerp", [first, second])
    assert np.linalg.norm(found.astype(np.float64)) == pytest.approx(1, abs=2e-7)
    assert np.linalg.norm((first + second) / 2) < 1 - 1e-5


def test_opposite_vectors_are_interpolated_linearly() -> None:
    found = merged("nuslerp", [floats(3, 4), floats(-3, -4)], weight=[3.0, 1.0])
    np.testing.assert_allclose(found, [1.5, 2], rtol=1e-6)


def test_rows_and_columns_are_turned_each_for_itself() -> None:
    """The first row is turned by a right angle, the second not at all; columns have lengths of their own."""
    first = np.array([[1, 0], [0, 3]], np.float32)
    second = np.array([[0, 1], [0, 3]], np.float32)
    rows = merged("nuslerp", [first, second], flatten=False)
    np.testing.assert_allclose(rows, [[math.sqrt(0.5), math.sqrt(0.5)], [0, 3]], rtol=1e-6)
    columns = merged("nuslerp", [first, second], flatten=False, row_wise=True)
    np.testing.assert_allclose(columns, oracle(first, second, 0.5, False, True), rtol=1e-6)
    assert columns[0, 0] == pytest.approx(math.sin(math.pi / 4)), "the second column of the second model is zero"


def test_a_vector_has_no_columns() -> None:
    turned = merged("nuslerp", [X, Y], flatten=False, row_wise=True)
    assert turned.tolist() == merged("nuslerp", [X, Y]).tolist()


@pytest.mark.property
@given(
    seed=st.integers(0, 2**32 - 1),
    flatten=st.booleans(),
    row_wise=st.booleans(),
    has_base=st.booleans(),
    rows=st.integers(1, 5),
    t=st.floats(0, 1),
)
def test_it_is_the_rotation_however_the_tensor_is_cut(
    seed: int, flatten: bool, row_wise: bool, has_base: bool, rows: int, t: float
) -> None:
    rng = np.random.default_rng(seed)
    base, first, second = rng.standard_normal((3, *SHAPE)).astype(np.float32)
    over = base if has_base else None
    start = base.astype(np.float64) if has_base else np.zeros(SHAPE)
    options = {"weight": [1 - t, t], "flatten": flatten, "row_wise": row_wise}
    whole = merged("nuslerp", [first, second], over, **options)
    expected = start + oracle(first - start, second - start, t, flatten, row_wise)
    np.testing.assert_allclose(whole, expected, rtol=1e-3, atol=1e-3)
    found = merged_in_pieces("nuslerp", [first, second], over, rows=rows, order=rng, **options)
    np.testing.assert_allclose(found, whole, rtol=1e-6, atol=1e-7)


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), flatten=st.booleans(), row_wise=st.booleans())
def test_a_model_with_itself_is_that_model_and_the_ends_are_the_models(
    seed: int, flatten: bool, row_wise: bool
) -> None:
    first, second = np.random.default_rng(seed).standard_normal((2, *SHAPE)).astype(np.float32)
    options = {"flatten": flatten, "row_wise": row_wise}
    np.testing.assert_allclose(merged("nuslerp", [first, first], **options), first, rtol=1e-6)
    np.testing.assert_array_equal(merged("nuslerp", [first, second], weight=[1.0, 0.0], **options), first)
    np.testing.assert_allclose(merged("nuslerp", [first, second], weight=[0.0, 1.0], **options), second, rtol=1e-6)

"""The weighted average, and the copy of one model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import floats, merged, merged_in_pieces

A, B = floats(4, -3, 2, 0.5), floats(-2, -1, 2, 0)
VECTORS = st.lists(st.lists(st.integers(-64, 64), min_size=6, max_size=6), min_size=1, max_size=5)


def test_it_is_the_weighted_average() -> None:
    assert merged("linear", [A, B], weight=[3.0, 1.0], normalize=True).tolist() == [2.5, -2.5, 2, 0.375]


def test_without_normalize_it_is_the_weighted_sum() -> None:
    assert merged("linear", [A, B], weight=[1.0, 2.0]).tolist() == [0, -5, 6, 0.5]


def test_weights_that_cancel_are_not_divided_by() -> None:
    assert merged("linear", [A, B], weight=[1.0, -1.0], normalize=True).tolist() == (A - B).tolist()


def test_a_weight_of_zero_leaves_a_model_out() -> None:
    assert merged("linear", [A, B], weight=[1.0, 0.0], normalize=True).tolist() == A.tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("method", "base"), [("linear", None), ("task_arithmetic", np.zeros_like(A))])
def test_a_weight_beyond_single_precision_gives_infinity_without_another_word(
    method: str, base: np.ndarray | None
) -> None:
    assert np.isinf(merged(method, [A, B], base, weight=[1e300, 0.0])).any()


def test_passthrough_is_the_model_times_its_scale() -> None:
    assert merged("passthrough", [A]).tolist() == A.tolist()
    assert merged("passthrough", [A], scale=[-0.5]).tolist() == (-A / 2).tolist()


@pytest.mark.parametrize("n_models", [1, 2, 3, 5])
def test_arrays_longer_than_a_block_are_averaged_to_the_end(n_models: int, rng: np.random.Generator) -> None:
    models = list(rng.standard_normal((n_models, 3, 1100)).astype(np.float32))
    found = merged_in_pieces("linear", models, normalize=True, rows=2)
    np.testing.assert_allclose(found, np.mean(models, axis=0, dtype=np.float64), rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(merged("linear", models, normalize=True), found)


@pytest.mark.property
@given(vectors=VECTORS, data=st.data())
def test_the_order_of_the_models_does_not_matter(vectors: list[list[int]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(vectors))))
    models, weights = [np.array(vector, np.float32) for vector in vectors], [1.0, 2.0, 0.5, -1.0, 4.0]
    there = merged("linear", models, weight=weights[: len(models)])
    back = merged("linear", [models[i] for i in order], weight=[weights[i] for i in order])
    assert (there == back).all()


@pytest.mark.property
@given(vector=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=8), copies=st.integers(1, 5))
def test_equal_models_give_that_model(vector: list[float], copies: int) -> None:
    model = np.array(vector, np.float32)
    np.testing.assert_allclose(merged("linear", [model] * copies, normalize=True), model, rtol=1e-6, atol=1e-37)


@pytest.mark.property
@given(vectors=VECTORS, exponent=st.integers(-8, 8))
def test_scaled_models_give_the_scaled_result(vectors: list[list[int]], exponent: int) -> None:
    factor = np.float32(2.0**exponent)
    models = [np.array(vector, np.float32) for vector in vectors]
    plain = merged("linear", models, normalize=True)
    assert (merged("linear", [factor * model for model in models], normalize=True) == factor * plain).all()


@pytest.mark.property
@given(vectors=VECTORS, offset=st.integers(-8, 8))
def test_a_constant_added_to_all_models_is_added_to_their_average(vectors: list[list[int]], offset: int) -> None:
    models = [np.array(vector, np.float32) for vector in vectors]
    moved = merged("linear", [model + offset for model in models], normalize=True)
    np.testing.assert_allclose(moved, merged("linear", models, normalize=True) + offset, rtol=1e-5, atol=1e-4)

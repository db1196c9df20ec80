"""Task arithmetic: the changes added up."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import changes_merged, floats, merged
from tests.merge.oracle import plain_sum

A, B = floats(4, -3, 2, 0.5), floats(-2, -1, 2, 0)
VECTORS = st.lists(st.lists(st.floats(-8, 8, width=32), min_size=5, max_size=5), min_size=1, max_size=4)


def test_it_is_the_weighted_sum() -> None:
    assert changes_merged("task_arithmetic", [A, B], weight=[1.0, 0.5]).tolist() == [3, -3.5, 3, 0.5]
    assert changes_merged("task_arithmetic", [A, B], weight=[1.0, 0.5], lambda_=2.0).tolist() == [6, -7, 6, 1]


def test_it_divides_by_the_weights_if_asked() -> None:
    found = changes_merged("task_arithmetic", [A, B], weight=[3.0, 1.0], normalize=True)
    assert found.tolist() == [2.5, -2.5, 2, 0.375]


def test_weights_that_cancel_are_not_divided_by() -> None:
    found = changes_merged("task_arithmetic", [A, B], weight=[1.0, -1.0], normalize=True)
    assert found.tolist() == (A - B).tolist()


def test_changes_are_measured_against_the_base_and_put_on_it() -> None:
    base = floats(1, 1, 1, 1)
    assert merged("task_arithmetic", [A, B], base, weight=[1.0, 2.0]).tolist() == [-2, -7, 4, -1.5]


def test_a_negative_weight_forgets_what_a_model_learned() -> None:
    base = floats(1, 1, 1, 1)
    assert merged("task_arithmetic", [A], base, weight=[-1.0]).tolist() == [-2, 5, 0, 1.5]


def test_without_a_base_there_are_no_changes() -> None:
    with pytest.raises(ValueError, match="measured against a base"):
        merged("task_arithmetic", [A, B])


@pytest.mark.property
@given(vectors=VECTORS, weights=st.lists(st.floats(-2, 2), min_size=4, max_size=4), normalize=st.booleans())
def test_it_is_the_formula_in_double_precision(
    vectors: list[list[float]], weights: list[float], normalize: bool
) -> None:
    models = [np.array(vector, np.float32) for vector in vectors]
    base, weights = np.linspace(-1, 1, 5, dtype=np.float32), weights[: len(models)]
    if abs(sum(weights)) < 0.1:
        normalize = False  # dividing by little magnifies the rounding of float32
    found = merged("task_arithmetic", models, base, weight=weights, normalize=normalize)
    expected = base + plain_sum([model.astype(np.float64) - base for model in models], weights, normalize)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-4)

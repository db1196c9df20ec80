"""NearSwap: near values are taken over, far ones moved by t."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import floats, merged, merged_in_pieces

VALUES = st.lists(st.floats(-8, 8, width=32), min_size=6, max_size=6)


def test_values_nearer_than_t_are_swapped_and_others_moved_by_t() -> None:
    found = merged("nearswap", [floats(0, 0, 0, 1), floats(0.25, 0.5, -2, 1)], t=0.5)
    assert found.tolist() == [0.25, 0.5, -0.5, 1]


def test_a_way_of_zero_is_the_first_model() -> None:
    first = floats(1, 2, 3)
    assert merged("nearswap", [first, floats(1.5, -2, 3)], t=0.0).tolist() == first.tolist()


def test_values_nearer_than_a_millionth_count_as_that_near() -> None:
    found = merged("nearswap", [floats(0), floats(1e-7)], t=5e-7)
    np.testing.assert_allclose(found, [5e-8], rtol=1e-5)


@pytest.mark.property
@given(first=VALUES, second=VALUES, t=st.floats(0, 10))
def test_it_lies_between_the_models_and_no_further_than_t_from_the_first(
    first: list[float], second: list[float], t: float
) -> None:
    a, b = np.array(first, np.float32).reshape(3, 2), np.array(second, np.float32).reshape(3, 2)
    found = merged("nearswap", [a, b], t=t)
    expected = a + np.sign(b - a.astype(np.float64)) * np.minimum(np.abs(b.astype(np.float64) - a), t)
    far = np.abs(b - a) > 1e-6
    np.testing.assert_allclose(found[far], expected[far], rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(merged_in_pieces("nearswap", [a, b], t=t), found)

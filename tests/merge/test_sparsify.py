"""The trim: how many entries stay, and which."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.merge.sparsify import keep_largest, kept_count

WHOLE_NUMBERS = st.lists(st.integers(-20, 20), min_size=1, max_size=60)
DENSITIES = st.floats(0.001, 1.5)


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def test_the_largest_magnitudes_stay_with_their_signs() -> None:
    delta = floats(0.1, -5, 2, -0.2, 3)
    assert keep_largest(delta, 0.4).tolist() == [0, -5, 0, 0, 3]


def test_the_shape_stays_and_the_trim_looks_at_the_whole_tensor() -> None:
    delta = floats(1, 2, 3, 4, 5, 6).reshape(2, 3)
    assert keep_largest(delta, 0.5).tolist() == [[0, 0, 0], [4, 5, 6]]


def test_of_equal_magnitudes_the_first_stay() -> None:
    assert keep_largest(floats(1, -1, 1, -1, 1), 0.4).tolist() == [1, -1, 0, 0, 0]
    assert keep_largest(floats(1, 7, 1, 1), 0.5).tolist() == [1, 7, 0, 0]


@pytest.mark.parametrize(
    ("n_values", "density", "count"),
    [(10, 0.2, 2), (10, 0.29, 2), (10, 0.3, 3), (10, 1.0, 10), (10, 2.0, 10), (10, 0.01, 1), (1, 0.5, 1), (3, 0.34, 1)],
)
def test_the_count_is_rounded_down_and_at_least_one(n_values: int, density: float, count: int) -> None:
    assert kept_count(n_values, density) == count


@pytest.mark.parametrize("density", [0.0, -0.5, float("nan")])
def test_a_density_that_keeps_nothing_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        keep_largest(floats(1, 2), density)


def test_a_density_of_one_is_the_change_itself() -> None:
    delta = floats(1, 0, -3)
    assert keep_largest(delta, 1.0) is delta


def test_the_argument_is_left_alone() -> None:
    delta = floats(3, 1, 2)
    keep_largest(delta, 0.4)
    assert delta.tolist() == [3, 1, 2]


@pytest.mark.property
@given(values=WHOLE_NUMBERS, density=DENSITIES)
def test_what_stays_is_unchanged_and_no_smaller_than_what_goes(values: list[int], density: float) -> None:
    delta = np.array(values, np.float32)
    trimmed = keep_largest(delta, density)
    kept = trimmed != 0
    assert (trimmed[kept] == delta[kept]).all()
    assert kept.sum() == min(kept_count(delta.size, density), np.count_nonzero(delta))
    assert np.abs(delta[kept]).min(initial=np.inf) >= np.abs(delta[~kept]).max(initial=0)


@pytest.mark.property
@given(order=st.permutations(range(12)), density=DENSITIES)
def test_distinct_entries_are_chosen_wherever_they_stand(order: list[int], density: float) -> None:
    delta = np.array([(-1) ** i * (i + 1) for i in range(12)], np.float32)
    assert (keep_largest(delta[order], density) == keep_largest(delta, density)[order]).all()


@pytest.mark.property
@given(values=WHOLE_NUMBERS, density=DENSITIES)
def test_trimming_twice_is_trimming_once(values: list[int], density: float) -> None:
    once = keep_largest(np.array(values, np.float32), density)
    assert (keep_largest(once, density) == once).all()

"""TIES and task arithmetic: cases computed by hand, and the laws that hold for any changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import ConfigError
from entrenar_core.merge.registry import METHOD_NAMES, merge_method
from entrenar_core.merge.task_arithmetic import task_arithmetic
from entrenar_core.merge.ties import ties


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


CHANGES = st.lists(st.lists(st.integers(-16, 16), min_size=8, max_size=8), min_size=1, max_size=4)
"""N changes of eight whole numbers: sums of them are exact in float32, in any order."""

A, B, C = floats(4, -3, 2, 0.5), floats(-2, -1, 2, 0), floats(-1, 5, 2, 0)


def test_task_arithmetic_is_the_weighted_sum() -> None:
    assert task_arithmetic([A, B], [1.0, 0.5]).tolist() == [3, -3.5, 3, 0.5]
    assert task_arithmetic([A, B], [1.0, 0.5], lambda_=2.0).tolist() == [6, -7, 6, 1]


def test_task_arithmetic_divides_by_the_weights_if_asked() -> None:
    assert task_arithmetic([A, B], [3.0, 1.0], normalize=True).tolist() == [2.5, -2.5, 2, 0.375]


def test_weights_that_cancel_are_not_divided_by() -> None:
    assert task_arithmetic([A, B], [1.0, -1.0], normalize=True).tolist() == (A - B).tolist()


def test_ties_averages_those_who_agree_with_the_elected_sign() -> None:
    """Sums are 1, 1, 6, 0.5: the signs are all +."""
    assert ties([A, B, C], [1.0] * 3, [1.0] * 3).tolist() == [4, 5, 2, 0.5]


def test_ties_weighs_the_votes_and_the_mean() -> None:
    """Sums with weights 1, 3, 1 are -3, -1, 10, 0.5; the mean of -3 (weight 1) and -1 (weight 3) is -1.5."""
    assert ties([A, B, C], [1.0, 3.0, 1.0], [1.0] * 3).tolist() == [-1.75, -1.5, 2, 0.5]


def test_ties_without_normalize_is_the_sum_of_those_who_agree() -> None:
    merged = ties([A, B, C], [1.0, 3.0, 1.0], [1.0] * 3, normalize=False)
    assert merged.tolist() == [-7, -6, 10, 0.5]


def test_a_tie_of_signs_goes_to_plus() -> None:
    assert ties([floats(2), floats(-2)], [1.0, 1.0], [1.0, 1.0]).tolist() == [2]


def test_ties_trims_each_change_to_its_own_density_before_the_vote() -> None:
    """A keeps its 4, B everything: the vote on the first entry is 4 - 2, on the second -1 alone."""
    assert ties([A, B], [1.0, 1.0], [0.25, 1.0]).tolist() == [4, -1, 2, 0]


def test_a_negative_weight_turns_a_change_round() -> None:
    assert ties([floats(2, -3)], [-1.0], [1.0], normalize=False).tolist() == [-2, 3]
    assert ties([floats(2, -3)], [-1.0], [1.0]).tolist() == [2, -3], "it cancels in the mean"


def test_lambda_scales_the_result() -> None:
    assert ties([A], [1.0], [1.0], lambda_=0.5).tolist() == (A / 2).tolist()


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_one_model_with_weight_and_density_one_is_that_model(name: str) -> None:
    for normalize in (False, True):
        merged = merge_method(name)([A], [1.0], [1.0], lambda_=1.0, normalize=normalize)
        assert merged.tolist() == A.tolist()


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_arguments_are_left_alone_and_results_are_float32(name: str) -> None:
    deltas = [A.copy(), B.copy()]
    merged = merge_method(name)(deltas, [0.5, 2.0], [0.5, 0.5], lambda_=0.3, normalize=True)
    assert merged.dtype == np.float32
    assert [delta.tolist() for delta in deltas] == [A.tolist(), B.tolist()]


@pytest.mark.parametrize("name", METHOD_NAMES)
@pytest.mark.parametrize(
    ("deltas", "weights"),
    [([], []), ([A, B], [1.0]), ([A, A.reshape(2, 2)], [1.0, 1.0])],
    ids=["none", "count", "shape"],
)
def test_changes_that_do_not_fit_each_other_are_refused(
    name: str, deltas: Sequence[np.ndarray], weights: Sequence[float]
) -> None:
    with pytest.raises(ValueError, match="cannot be joined"):
        merge_method(name)(deltas, weights, [1.0] * len(deltas), lambda_=1.0, normalize=False)


def test_methods_are_found_in_any_case_and_others_are_refused_with_a_list() -> None:
    assert merge_method("TIES") is ties
    with pytest.raises(ConfigError, match="no merge method 'slurp'") as caught:
        merge_method("slurp")
    assert caught.value.hint == "one of ties, task_arithmetic"


@pytest.mark.property
@pytest.mark.parametrize("name", METHOD_NAMES)
@given(changes=CHANGES, data=st.data())
def test_the_order_of_the_models_does_not_matter(name: str, changes: list[list[int]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(changes))))
    deltas = [np.array(change, np.float32) for change in changes]
    weights, densities = [1.0, 0.5, 2.0, 0.25][: len(deltas)], [0.5, 1.0, 0.25, 0.75][: len(deltas)]
    method = merge_method(name)
    there = method(deltas, weights, densities, lambda_=1.0, normalize=True)
    back = method(*([each[i] for i in order] for each in (deltas, weights, densities)), lambda_=1.0, normalize=True)
    assert (there == back).all()


@pytest.mark.property
@pytest.mark.parametrize("name", METHOD_NAMES)
@given(changes=CHANGES, exponent=st.integers(-8, 8), normalize=st.booleans())
def test_scaled_changes_give_the_scaled_result(
    name: str, changes: list[list[int]], exponent: int, normalize: bool
) -> None:
    factor = np.float32(2.0**exponent)
    deltas = [np.array(change, np.float32) for change in changes]
    weights, densities = [1.0] * len(deltas), [0.4] * len(deltas)
    method = merge_method(name)
    merged = method(deltas, weights, densities, lambda_=1.0, normalize=normalize)
    scaled = method([factor * delta for delta in deltas], weights, densities, lambda_=1.0, normalize=normalize)
    assert (scaled == factor * merged).all()


@pytest.mark.property
@given(changes=CHANGES)
def test_an_entry_of_ties_lies_between_the_entries_it_came_from(changes: list[list[int]]) -> None:
    deltas = np.array(changes, np.float32)
    merged = ties(list(deltas), [1.0] * len(deltas), [1.0] * len(deltas))
    assert (merged <= np.maximum(deltas.max(axis=0), 0) + 1e-5).all()
    assert (merged >= np.minimum(deltas.min(axis=0), 0) - 1e-5).all()


@pytest.mark.property
@given(change=st.lists(st.integers(-16, 16), min_size=8, max_size=8), copies=st.integers(1, 4))
def test_equal_models_give_that_model(change: list[int], copies: int) -> None:
    delta = np.array(change, np.float32)
    merged = ties([delta] * copies, [1.0] * copies, [1.0] * copies)
    np.testing.assert_allclose(merged, delta, rtol=1e-6)

"""TIES: cases computed by hand, the trim against a sort, and the laws of the method."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import changes_merged, floats, merged, merged_in_pieces
from tests.merge.oracle import keep_first, voted_sum

A, B, C = floats(4, -3, 2, 0.5), floats(-2, -1, 2, 0), floats(-1, 5, 2, 0)

CHANGES = st.lists(st.lists(st.integers(-16, 16), min_size=8, max_size=8), min_size=1, max_size=4)
"""N changes of eight whole numbers: sums of them are exact in float32, in any order."""


def test_it_averages_those_who_agree_with_the_elected_sign() -> None:
    """Sums are 1, 1, 6, 0.5: the signs are all +."""
    assert changes_merged("ties", [A, B, C], normalize=True).tolist() == [4, 5, 2, 0.5]


def test_it_weighs_the_votes_and_the_mean() -> None:
    """Sums with weights 1, 3, 1 are -3, -1, 10, 0.5; the mean of -3 (weight 1) and -1 (weight 3) is -1.5."""
    found = changes_merged("ties", [A, B, C], weight=[1.0, 3.0, 1.0], normalize=True)
    assert found.tolist() == [-1.75, -1.5, 2, 0.5]


def test_without_normalize_it_is_the_sum_of_those_who_agree() -> None:
    assert changes_merged("ties", [A, B, C], weight=[1.0, 3.0, 1.0]).tolist() == [-7, -6, 10, 0.5]


def test_a_tie_of_signs_goes_to_plus() -> None:
    assert changes_merged("ties", [floats(2), floats(-2)], normalize=True).tolist() == [2]


def test_each_change_is_trimmed_to_its_own_density_before_the_vote() -> None:
    """A keeps its 4, B everything: the vote on the first entry is 4 - 2, on the second -1 alone."""
    assert changes_merged("ties", [A, B], density=[0.25, 1.0], normalize=True).tolist() == [4, -1, 2, 0]


def test_a_negative_weight_turns_a_change_round() -> None:
    assert changes_merged("ties", [floats(2, -3)], weight=[-1.0]).tolist() == [-2, 3]
    assert changes_merged("ties", [floats(2, -3)], weight=[-1.0], normalize=True).tolist() == [2, -3], "it cancels"


def test_a_weight_of_zero_leaves_a_model_out() -> None:
    assert changes_merged("ties", [A, B], weight=[1.0, 0.0], normalize=True).tolist() == A.tolist()


def test_lambda_scales_the_joined_change_and_the_base_stays() -> None:
    base = floats(10, 20, 30, 40)
    assert merged("ties", [base + A], base, lambda_=0.5).tolist() == (base + A / 2).tolist()


def test_rescale_restores_the_norm_of_what_was_trimmed() -> None:
    """|4| + |3| of 9.5 are kept."""
    found = changes_merged("ties", [A], density=[0.5], rescale="l1")
    np.testing.assert_allclose(found, [4 * 9.5 / 7, -3 * 9.5 / 7, 0, 0], rtol=1e-6)
    assert changes_merged("ties", [A], density=[0.5], rescale="density").tolist() == [8, -6, 0, 0]


def test_the_largest_magnitudes_stay_with_their_signs() -> None:
    assert changes_merged("ties", [floats(0.1, -5, 2, -0.2, 3)], density=[0.4]).tolist() == [0, -5, 0, 0, 3]


def test_the_trim_looks_at_the_whole_tensor() -> None:
    delta = floats(1, 2, 3, 4, 5, 6).reshape(2, 3)
    assert changes_merged("ties", [delta], density=[0.5]).tolist() == [[0, 0, 0], [4, 5, 6]]


def test_of_equal_magnitudes_the_first_stay() -> None:
    assert changes_merged("ties", [floats(1, -1, 1, -1, 1)], density=[0.4]).tolist() == [1, -1, 0, 0, 0]
    assert changes_merged("ties", [floats(1, 7, 1, 1)], density=[0.5]).tolist() == [1, 7, 0, 0]


@pytest.mark.parametrize("density", [0.0, -0.5, float("nan")])
def test_a_density_that_keeps_nothing_is_refused(density: float) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        changes_merged("ties", [A], density=[density])


def test_a_density_that_is_nearly_zero_keeps_the_largest_entry() -> None:
    assert changes_merged("ties", [A], density=[1e-9]).tolist() == [4, 0, 0, 0]


def test_it_needs_a_base_and_a_weight_for_each_model() -> None:
    with pytest.raises(ValueError, match="measured against a base"):
        merged("ties", [A, B])
    with pytest.raises(ValueError, match="1 weights do not fit 2 models"):
        changes_merged("ties", [A, B], weight=[1.0])


@pytest.mark.property
@given(
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 7)),
    n_models=st.integers(1, 4),
    data=st.data(),
)
def test_it_is_what_sorting_the_whole_tensor_gives_however_it_is_cut(
    seed: int, shape: tuple[int, int], n_models: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    values = data.draw(st.sampled_from([rng.standard_normal(40), np.arange(-2, 3), np.array([0.0, 1e-40, 2e-40, 1])]))
    deltas = [rng.choice(values, shape).astype(np.float32) for _ in range(n_models)]
    densities = data.draw(st.lists(st.floats(1e-3, 1.2), min_size=n_models, max_size=n_models))
    weights = data.draw(st.lists(st.sampled_from([1.0, 0.5, -0.3, 2.0]), min_size=n_models, max_size=n_models))
    normalize, rows = data.draw(st.booleans()), data.draw(st.integers(1, 9))
    counts = [min(delta.size, max(1, int(d * delta.size))) for d, delta in zip(densities, deltas, strict=True)]
    trimmed = [keep_first(delta, 0, count) for delta, count in zip(deltas, counts, strict=True)]
    expected = voted_sum(trimmed, weights, normalize)
    options = {"density": densities, "weight": weights, "normalize": normalize}
    np.testing.assert_array_equal(changes_merged("ties", deltas, **options), expected)
    pieces = merged_in_pieces("ties", deltas, np.zeros(shape, np.float32), rows=rows, order=rng, **options)
    np.testing.assert_array_equal(pieces, expected)


@pytest.mark.property
@given(changes=CHANGES, data=st.data())
def test_the_order_of_the_models_does_not_matter(changes: list[list[int]], data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(changes))))
    deltas = [np.array(change, np.float32) for change in changes]
    weights, densities = [1.0, 0.5, 2.0, 0.25][: len(deltas)], [0.5, 1.0, 0.25, 0.75][: len(deltas)]
    there = changes_merged("ties", deltas, weight=weights, density=densities, normalize=True)
    deltas, weights, densities = ([each[i] for i in order] for each in (deltas, weights, densities))
    back = changes_merged("ties", deltas, weight=weights, density=densities, normalize=True)
    assert (there == back).all()


@pytest.mark.property
@given(changes=CHANGES, exponent=st.integers(-8, 8), normalize=st.booleans())
def test_scaled_changes_give_the_scaled_result(changes: list[list[int]], exponent: int, normalize: bool) -> None:
    factor = np.float32(2.0**exponent)
    deltas = [np.array(change, np.float32) for change in changes]
    densities = [0.4] * len(deltas)
    plain = changes_merged("ties", deltas, density=densities, normalize=normalize)
    scaled = changes_merged("ties", [factor * delta for delta in deltas], density=densities, normalize=normalize)
    assert (scaled == factor * plain).all()


@pytest.mark.property
@given(changes=CHANGES)
def test_an_entry_lies_between_the_entries_it_came_from(changes: list[list[int]]) -> None:
    deltas = np.array(changes, np.float32)
    found = changes_merged("ties", list(deltas), normalize=True)
    assert (found <= np.maximum(deltas.max(axis=0), 0) + 1e-5).all()
    assert (found >= np.minimum(deltas.min(axis=0), 0) - 1e-5).all()


@pytest.mark.property
@given(change=st.lists(st.integers(-16, 16), min_size=8, max_size=8), copies=st.integers(1, 4))
def test_equal_models_give_that_model(change: list[int], copies: int) -> None:
    delta = np.array(change, np.float32)
    np.testing.assert_allclose(changes_merged("ties", [delta] * copies, normalize=True), delta, rtol=1e-6)


@pytest.mark.property
@given(change=st.lists(st.integers(-20, 20), min_size=1, max_size=60), density=st.floats(0.001, 1.5))
def test_trimming_twice_is_trimming_once(change: list[int], density: float) -> None:
    once = changes_merged("ties", [np.array(change, np.float32)], density=[density])
    assert (changes_merged("ties", [once], density=[density]) == once).all()

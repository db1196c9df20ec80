"""SCE: which positions are selected, what models weigh, and what is erased."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.merge.merging import changes_merged, floats, merged, merged_in_pieces
from tests.merge.oracle import sce


def test_models_weigh_their_mean_squares() -> None:
    """Mean squares of 1 and 9: weights of 0.1 and 0.9."""
    found = changes_merged("sce", [floats(1, 1), floats(3, 3)])
    np.testing.assert_allclose(found, [2.8, 2.8], rtol=1e-6)


def test_the_vote_is_unweighted_and_the_minority_is_erased() -> None:
    """Sums are 1, -2 and 0 (which counts as +)."""
    found = changes_merged("sce", [floats(3, -4, 2), floats(-2, 2, -2)])
    np.testing.assert_allclose(found, [3, -4, 2], rtol=1e-6)


def test_the_positions_of_largest_variance_are_selected_among_those_that_vary() -> None:
    """Four of six positions vary; half of them are two."""
    first, second = floats(5, 1, 1, 1, 1, 5), floats(5, 2, 3, 4, 5, 5)
    found = changes_merged("sce", [first, second], select_topk=0.5)
    assert np.flatnonzero(found).tolist() == [3, 4]
    weights = np.array([1 + 1, 16 + 25]) / 43
    np.testing.assert_allclose(found[3:5], [weights @ [1, 4], weights @ [1, 5]], rtol=1e-6)


def test_at_least_one_position_is_selected() -> None:
    found = changes_merged("sce", [floats(1, 1), floats(2, 3)], select_topk=0.01)
    assert np.flatnonzero(found).tolist() == [1]


def test_where_nothing_varies_nothing_is_selected() -> None:
    change = floats(0.1, 0.7, 0.3)
    assert changes_merged("sce", [change] * 3, select_topk=0.5).tolist() == [0, 0, 0]
    np.testing.assert_allclose(changes_merged("sce", [change] * 3), change, rtol=1e-6)


def test_small_changes_weigh_the_same() -> None:
    """Mean squares of 1e-8 and 9e-8 are less than 1e-6 together."""
    found = changes_merged("sce", [floats(1e-4, 1e-4), floats(3e-4, 3e-4)])
    np.testing.assert_allclose(found, [2e-4, 2e-4], rtol=1e-5)


def test_what_nearly_no_weight_is_behind_is_not_divided_by_it() -> None:
    """The first entry is that of a model of weight 1e-8."""
    found = changes_merged("sce", [floats(1, 0, 0, 0), floats(0, 5e3, 5e3, 5e3)])
    assert found[0] == pytest.approx(1 / 75e6 / 1e-6, rel=1e-3)


def test_it_needs_a_base() -> None:
    with pytest.raises(ValueError, match="measured against a base"):
        merged("sce", [floats(1, 2), floats(2, 1)])


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), n_models=st.integers(2, 4), rows=st.integers(1, 6), topk=st.floats(0.01, 1))
def test_it_is_the_formula_however_the_tensor_is_cut(seed: int, n_models: int, rows: int, topk: float) -> None:
    rng = np.random.default_rng(seed)
    base, *deltas = rng.integers(-6, 7, (1 + n_models, 6, 5)).astype(np.float32)
    models = [base + delta for delta in deltas]
    whole = merged("sce", models, base, select_topk=topk)
    np.testing.assert_allclose(whole, base + sce(deltas, topk), rtol=1e-5, atol=1e-5)
    pieces = merged_in_pieces("sce", models, base, rows=rows, order=rng, select_topk=topk)
    np.testing.assert_array_equal(pieces, whole)


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), data=st.data())
def test_the_order_of_the_models_does_not_matter(seed: int, data: st.DataObject) -> None:
    deltas = list(np.random.default_rng(seed).integers(-6, 7, (3, 4, 5)).astype(np.float32))
    order = data.draw(st.permutations(range(3)))
    there = changes_merged("sce", deltas, select_topk=0.4)
    np.testing.assert_allclose(changes_merged("sce", [deltas[i] for i in order], select_topk=0.4), there, rtol=1e-5)

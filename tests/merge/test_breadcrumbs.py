"""Breadcrumbs: which ranks are kept, by hand and against a sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.merge.breadcrumbs import kept_ranks
from tests.merge.merging import changes_merged, floats, merged_in_pieces
from tests.merge.oracle import keep_first, plain_sum, voted_sum

TEN = floats(1, -2, 3, -4, 5, -6, 7, -8, 9, -10)


def test_the_largest_and_the_small_ones_go() -> None:
    found = changes_merged("breadcrumbs", [TEN], density=[0.3], gamma=[0.2])
    assert found.tolist() == [0, 0, 0, 0, 0, -6, 7, -8, 0, 0]


def test_a_gamma_of_less_than_one_entry_drops_none_at_the_top() -> None:
    found = changes_merged("breadcrumbs", [TEN], density=[0.3], gamma=[0.09])
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 0, -8, 9, -10]


def test_a_density_of_one_keeps_the_top_too() -> None:
    assert changes_merged("breadcrumbs", [TEN], density=[1.0], gamma=[0.2]).tolist() == TEN.tolist()


def test_where_both_do_not_fit_fewer_large_entries_go() -> None:
    found = changes_merged("breadcrumbs", [TEN], density=[0.9], gamma=[0.3])
    assert found.tolist() == [*TEN[:9].tolist(), 0]


def test_at_least_one_is_kept() -> None:
    found = changes_merged("breadcrumbs", [TEN], density=[0.01], gamma=[0.1])
    assert found.tolist() == [0, 0, 0, 0, 0, 0, 0, 0, 9, 0]


def test_of_equal_ones_the_first_count_as_larger() -> None:
    found = changes_merged("breadcrumbs", [floats(1, 1, -1, 1, 1)], density=[0.4], gamma=[0.2])
    assert found.tolist() == [0, 1, -1, 0, 0]


def test_breadcrumbs_ties_elects_signs() -> None:
    """6 - 7 is negative: 6 is left out."""
    first, second = floats(9, 6, 1), floats(9, -7, 1)
    options = {"density": [0.34, 0.34], "gamma": [0.34, 0.34]}
    assert changes_merged("breadcrumbs_ties", [first, second], **options).tolist() == [0, -7, 0]
    assert changes_merged("breadcrumbs", [first, second], **options).tolist() == [0, -1, 0]


def test_rescale_restores_the_norm_or_divides_by_the_share() -> None:
    options = {"density": [0.3], "gamma": [0.2]}
    by_norm = changes_merged("breadcrumbs", [TEN], rescale="l1", **options)
    np.testing.assert_allclose(by_norm[5:8], np.array([-6, 7, -8]) * 55 / 21, rtol=1e-6)
    by_share = changes_merged("breadcrumbs", [TEN], rescale="density", **options)
    np.testing.assert_allclose(by_share[5:8], np.array([-6, 7, -8]) / 0.3, rtol=1e-6)


@pytest.mark.parametrize(
    ("n_values", "density", "gamma", "ranks"),
    [(100, 0.5, 0.01, (1, 51)), (99, 0.5, 0.01, (0, 49)), (10, 0.95, 0.2, (1, 10)), (10, 0.001, 0.95, (9, 10))],
)
def test_ranks_are_rounded_down_and_fit_the_tensor(
    n_values: int, density: float, gamma: float, ranks: tuple[int, int]
) -> None:
    assert kept_ranks(n_values, density, gamma) == ranks


@pytest.mark.property
@given(
    seed=st.integers(0, 2**32 - 1),
    method=st.sampled_from(["breadcrumbs", "breadcrumbs_ties"]),
    n_models=st.integers(1, 3),
    rows=st.integers(1, 7),
    data=st.data(),
)
def test_it_is_what_sorting_gives_however_the_tensor_is_cut(
    seed: int, method: str, n_models: int, rows: int, data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    values = data.draw(st.sampled_from([np.arange(-30, 31), np.arange(-2, 3), np.array([0.0, 0.0, 2.0])]))
    deltas = [rng.choice(values, (7, 5)).astype(np.float32) for _ in range(n_models)]
    densities = data.draw(st.lists(st.floats(0.01, 1), min_size=n_models, max_size=n_models))
    gammas = data.draw(st.lists(st.floats(0, 0.6), min_size=n_models, max_size=n_models))
    kept = []
    for delta, density, gamma in zip(deltas, densities, gammas, strict=True):
        count = max(1, int(density * 35))
        dropped = min(int(gamma * 35), 35 - count)
        kept.append(keep_first(delta, dropped, dropped + count))
    ones = [1.0] * n_models
    expected = voted_sum(kept, ones, False) if method == "breadcrumbs_ties" else plain_sum(kept, ones, False)
    options = {"density": densities, "gamma": gammas}
    np.testing.assert_array_equal(changes_merged(method, deltas, **options), expected)
    found = merged_in_pieces(method, deltas, np.zeros((7, 5), np.float32), rows=rows, order=rng, **options)
    np.testing.assert_array_equal(found, expected)

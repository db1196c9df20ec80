"""Seeded orders: permutations that are pinned, so that no release changes the order of a run that is resumed."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.order import GROUP_BATCHES, Purpose, group_by_length, permutation, shuffle_batches


@pytest.mark.property
@given(st.integers(0, 300), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_it_is_a_permutation(n: int, seed: int, epoch: int) -> None:
    order = permutation(n, seed=seed, epoch=epoch, purpose=Purpose.EXAMPLES)
    assert sorted(order.tolist()) == list(range(n))


def test_the_order_of_a_seed_is_pinned() -> None:
    assert permutation(8, seed=42, epoch=0, purpose=Purpose.EXAMPLES).tolist() == [5, 7, 2, 0, 4, 6, 1, 3]


def test_seed_epoch_and_purpose_each_change_the_order() -> None:
    base = permutation(100, seed=1, epoch=0, purpose=Purpose.EXAMPLES).tolist()
    assert base != permutation(100, seed=2, epoch=0, purpose=Purpose.EXAMPLES).tolist()
    assert base != permutation(100, seed=1, epoch=1, purpose=Purpose.EXAMPLES).tolist()
    assert base != permutation(100, seed=1, epoch=0, purpose=Purpose.ROWS).tolist()
    assert base != permutation(100, seed=1 + 2**32, epoch=0, purpose=Purpose.EXAMPLES).tolist()


def test_every_place_is_equally_likely() -> None:
    counts = np.zeros((5, 5))
    for seed in range(2000):
        counts[np.arange(5), permutation(5, seed=seed, epoch=0, purpose=Purpose.EXAMPLES)] += 1
    # 400 expected in each cell, standard deviation 18: five of them.
    assert np.abs(counts - 400).max() < 90


def test_grouping_sorts_inside_windows_only() -> None:
    window = GROUP_BATCHES * 2
    lengths = np.arange(2 * window)[::-1].copy()
    grouped = group_by_length(np.arange(2 * window), lengths, batch_size=2)
    assert set(grouped[:window].tolist()) == set(range(window))
    assert (np.diff(lengths[grouped[:window]]) > 0).all()
    assert (np.diff(lengths[grouped[window:]]) > 0).all()


def test_shuffled_batches_stay_whole_and_the_incomplete_one_stays_last() -> None:
    order = shuffle_batches(np.arange(11), 3, seed=0, epoch=0).tolist()
    assert order[9:] == [9, 10]
    assert sorted(tuple(order[begin : begin + 3]) for begin in (0, 3, 6)) == [(0, 1, 2), (3, 4, 5), (6, 7, 8)]

"""The order of a stream: every run once a pass, from everywhere at once, each group from its start to its end."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.stream_plan import MOST_VISITS, RUN_ROWS, plan_pass, run_length

ROWS = st.lists(st.integers(1, 200), min_size=1, max_size=12)


@pytest.mark.property
@given(rows=ROWS, seed=st.integers(0, 2**63 - 1), shuffle=st.booleans())
def test_a_pass_reads_every_run_once_and_each_group_in_its_order(rows: list[int], seed: int, shuffle: bool) -> None:
    plan = plan_pass(rows, [1.0] * len(rows), shuffle=shuffle, seed=seed, index=0)
    for group, count in enumerate(rows):
        assert plan.runs[plan.groups == group].tolist() == list(range(-(-count // plan.run_rows)))
    assert len(plan) == sum(-(-count // plan.run_rows) for count in rows)


@pytest.mark.property
@given(rows=ROWS, seed=st.integers(0, 1000))
def test_a_pass_depends_on_seed_and_index_alone(rows: list[int], seed: int) -> None:
    first, again = (plan_pass(rows, [1.0] * len(rows), shuffle=True, seed=seed, index=2) for _ in range(2))
    assert np.array_equal(first.groups, again.groups)
    assert np.array_equal(first.runs, again.runs)


@pytest.mark.property
@given(rows=ROWS, seed=st.integers(0, 1000), share=st.floats(0.0, 1.0))
def test_every_group_is_as_far_as_the_pass(rows: list[int], seed: int, share: float) -> None:
    plan = plan_pass(rows, [1.0] * len(rows), shuffle=True, seed=seed, index=0)
    read = plan.groups[: round(share * len(plan))]
    for group, count in enumerate(rows):
        runs = -(-count // plan.run_rows)
        assert abs(np.count_nonzero(read == group) - share * runs) <= 2 + len(rows) * runs / len(plan)


def test_groups_of_one_size_all_come_before_one_comes_twice() -> None:
    plan = plan_pass([10_000] * 40, [1.0] * 40, shuffle=True, seed=1, index=0)
    assert set(plan.groups[:40].tolist()) == set(range(40))
    assert plan.groups[:40].tolist() != sorted(plan.groups[:40].tolist())


def test_two_passes_have_two_orders() -> None:
    one, two = (plan_pass([100, 100], [1.0, 1.0], shuffle=True, seed=1, index=index) for index in (0, 1))
    assert one.groups.tolist() != two.groups.tolist()


def test_without_shuffling_groups_come_one_after_the_other() -> None:
    plan = plan_pass([RUN_ROWS * 2, RUN_ROWS], [1.0, 1.0], shuffle=False, seed=1, index=0)
    assert (plan.groups.tolist(), plan.runs.tolist()) == ([0, 0, 1], [0, 1, 0])


def test_half_a_group_is_read_in_one_pass_and_the_other_half_in_the_next() -> None:
    rows, weights = [RUN_ROWS * 6, RUN_ROWS], [0.5, 1.0]
    first, second = (plan_pass(rows, weights, shuffle=True, seed=5, index=index) for index in (0, 1))
    seen = first.runs[first.groups == 0].tolist() + second.runs[second.groups == 0].tolist()
    assert sorted(seen) == list(range(6))


def test_small_groups_with_a_small_weight_come_in_some_passes_only() -> None:
    rows, weights = [RUN_ROWS] * 1000, [0.05] * 1000
    counts = [len(plan_pass(rows, weights, shuffle=True, seed=5, index=index)) for index in range(20)]
    assert sum(counts) == 1000
    assert all(20 < count < 90 for count in counts)


def test_a_pass_is_never_empty() -> None:
    assert len(plan_pass([RUN_ROWS, RUN_ROWS * 2], [1e-9, 1e-9], shuffle=True, seed=5, index=0)) == 1


def test_a_weight_of_two_reads_a_group_twice() -> None:
    plan = plan_pass([RUN_ROWS * 2], [2.0], shuffle=True, seed=5, index=0)
    assert plan.runs.tolist() == [0, 1, 0, 1]


def test_a_plan_stays_small_however_many_rows_there_are() -> None:
    assert run_length([RUN_ROWS]) == RUN_ROWS
    rows = [10**9, 10**9]
    assert sum(rows) / run_length(rows) <= MOST_VISITS

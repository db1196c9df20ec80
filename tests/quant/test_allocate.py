"""Types under a size: never more bytes than allowed, and no upgrade left that would fit."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.quant.allocate import Candidate, allocate, useful

CHOICES = st.lists(
    st.lists(
        st.builds(Candidate, st.just("T"), st.integers(1, 40), st.floats(0, 1, allow_nan=False)),
        min_size=1,
        max_size=4,
    ),
    min_size=1,
    max_size=4,
)


@pytest.mark.property
@given(choices=CHOICES, room=st.integers(0, 120))
def test_the_budget_holds_and_no_single_upgrade_fits_any_more(choices: list[list[Candidate]], room: int) -> None:
    budget = sum(min(one.n_bytes for one in row) for row in choices) + room
    chosen = allocate(choices, budget)
    total = sum(one.n_bytes for one in chosen)
    assert total <= budget
    for row, now in zip(choices, chosen, strict=True):
        assert now in row
        better = [one for one in row if one.error < now.error]
        assert all(total - now.n_bytes + one.n_bytes > budget for one in better)


@pytest.mark.property
@given(choices=CHOICES)
def test_with_room_for_all_every_tensor_gets_its_best(choices: list[list[Candidate]]) -> None:
    chosen = allocate(choices, 10_000)
    assert [one.error for one in chosen] == [min(one.error for one in row) for row in choices]


def test_where_gains_fall_as_they_should_it_is_the_best_of_all_choices() -> None:
    ladders = [
        [Candidate("a", 10, 1.0), Candidate("b", 20, 0.4), Candidate("c", 30, 0.2)],
        [Candidate("a", 10, 3.0), Candidate("b", 20, 1.0), Candidate("c", 30, 0.9)],
        [Candidate("a", 10, 0.5), Candidate("b", 20, 0.3), Candidate("c", 30, 0.2)],
    ]
    for budget in range(30, 91, 10):
        best = min(
            sum(one.error for one in chosen)
            for chosen in itertools.product(*ladders)
            if sum(one.n_bytes for one in chosen) <= budget
        )
        assert sum(one.error for one in allocate(ladders, budget)) == pytest.approx(best)


def test_equal_gains_go_to_the_earlier_tensor() -> None:
    ladder = [Candidate("small", 1, 1.0), Candidate("large", 2, 0.0)]
    assert [one.type_name for one in allocate([ladder, ladder], 3)] == ["large", "small"]


def test_what_is_larger_and_no_better_is_never_chosen() -> None:
    worse = Candidate("worse", 5, 0.6)
    ladder = [Candidate("small", 1, 0.5), worse, Candidate("same", 6, 0.5), Candidate("best", 7, 0.1)]
    assert [one.type_name for one in useful(ladder)] == ["small", "best"]


def test_too_little_room_is_an_error() -> None:
    with pytest.raises(ValueError, match="take 3 bytes more than 7"):
        allocate([[Candidate("a", 10, 0.0)]], 7)

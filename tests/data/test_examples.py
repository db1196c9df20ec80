"""The flat store of examples: what goes in comes out, and its counts are those of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.examples import Examples, ExampleStore
from tests.data.documents import data_sets, examples_of, selection


def test_examples_come_back_as_they_went_in() -> None:
    examples = examples_of([5, 6, 7], [8, 9], supervised=[[0, 1, 0], [0, 1]])
    assert len(examples) == 2
    assert examples[0].tokens.tolist() == [5, 6, 7]
    assert examples[0].supervised.tolist() == [False, True, False]
    assert examples[1].tokens.tolist() == [8, 9]


def test_ids_are_int32_and_flags_are_one_byte() -> None:
    examples = examples_of([5, 6, 7])
    assert examples.tokens.dtype == np.int32
    assert examples.supervised.dtype == np.bool_


def test_the_first_token_is_never_a_target() -> None:
    assert examples_of([5, 6], supervised=[[1, 1]])[0].supervised.tolist() == [False, True]


@pytest.mark.parametrize(("tokens", "flags"), [([], b""), ([5], b"\1"), ([5, 6], b"\0\0"), ([5, 6], b"\1\0")])
def test_an_example_without_a_target_is_not_kept(tokens: list[int], flags: bytes) -> None:
    store = ExampleStore()
    assert not store.add(tokens, flags)
    assert len(store) == 0


def test_stats_count_positions_and_targets() -> None:
    stats = examples_of([5, 6, 7], [8, 9], supervised=[[0, 1, 0], [0, 1]]).stats
    assert (stats.examples, stats.total_tokens, stats.supervised_tokens) == (2, 3, 2)


def test_lengths_are_positions_one_less_than_tokens() -> None:
    assert examples_of([5, 6, 7], [8, 9]).lengths.tolist() == [2, 1]


@pytest.mark.parametrize("index", [-1, 2])
def test_an_index_outside_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        examples_of([5, 6], [7, 8])[index]


@pytest.mark.property
@given(data_sets(), st.randoms(use_true_random=False))
def test_a_selection_holds_the_chosen_examples_in_the_order_asked_for(examples: Examples, random: object) -> None:
    indices = np.array(random.choices(range(len(examples)), k=random.randint(0, 10)), dtype=np.int64)  # type: ignore[attr-defined]
    chosen = selection(examples, indices)
    assert len(chosen) == len(indices)
    for place, index in enumerate(indices.tolist()):
        assert chosen[place].tokens.tolist() == examples[index].tokens.tolist()
        assert chosen[place].supervised.tolist() == examples[index].supervised.tolist()
    assert chosen.stats.total_tokens == int(chosen.lengths.sum())
    assert chosen.stats.supervised_tokens == int(chosen.supervised.sum())


def test_the_digest_sees_ids_flags_and_borders() -> None:
    base = examples_of([1, 2, 3], [4, 5])
    assert base.digest() == examples_of([1, 2, 3], [4, 5]).digest()
    assert base.digest() != examples_of([1, 2, 9], [4, 5]).digest()
    assert base.digest() != examples_of([1, 2, 3], [4, 5], supervised=[[0, 1, 0], [0, 1]]).digest()
    assert examples_of([1, 2], [3, 4, 5]).digest() != examples_of([1, 2, 3], [4, 5]).digest()


def valued(*pairs: tuple[list[int], float]) -> Examples:
    store = ExampleStore()
    for tokens, value in pairs:
        store.add(tokens, bytes(len(tokens) - 1) + b"\1", value)
    return store.finish(rows=len(pairs))


def test_a_value_belongs_to_its_example_and_goes_with_it() -> None:
    examples = valued(([1, 2, 0], 0.5), ([3, 0], -2.0), ([4, 5, 6, 0], 7.25))
    assert examples.values is not None
    assert (examples.values.dtype, examples.values.tolist()) == (np.float64, [0.5, -2.0, 7.25])
    chosen = selection(examples, np.array([2, 0]))
    assert chosen.values is not None
    assert chosen.values.tolist() == [7.25, 0.5]


def test_the_value_of_an_example_that_is_not_kept_is_not_kept() -> None:
    store = ExampleStore()
    store.add([5, 6], b"\0\0", 1.0)
    store.add([5, 6], b"\0\1", 2.0)
    values = store.finish(rows=2).values
    assert values is not None
    assert values.tolist() == [2.0]


def test_without_values_there_are_none() -> None:
    assert examples_of([1, 2]).values is None


def test_a_value_for_some_examples_only_is_an_error() -> None:
    store = ExampleStore()
    store.add([5, 6], b"\0\1", 2.0)
    store.add([5, 6], b"\0\1")
    with pytest.raises(ValueError, match="1 of 2 examples have a value"):
        store.finish(rows=2)


def test_the_digest_sees_values() -> None:
    assert valued(([1, 2, 0], 0.5)).digest() != valued(([1, 2, 0], 0.25)).digest()

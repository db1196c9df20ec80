"""Laws of the loader: every target once an epoch, no label across documents, batches that depend on nothing but
(data, seed, epoch, index)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.loader import Loader
from tests.data.documents import (
    MAX_POSITIONS,
    data_sets,
    examples_of,
    predictions_of_batches,
    predictions_of_data_set,
    selection,
)

SEQ_LENS = st.sampled_from([MAX_POSITIONS, MAX_POSITIONS + 1, 40])


def same(left: Batch, right: Batch) -> bool:
    pairs = ((getattr(left, name), getattr(right, name)) for name in ("tokens", "labels", "positions", "starts"))
    return all(np.array_equal(a, b) for a, b in pairs) and left.n_supervised == right.n_supervised


def many(count: int = 200) -> Examples:
    return examples_of(*([index * 100 + place for place in range(2 + index % 30)] for index in range(count)))


@pytest.mark.property
@settings(deadline=None)
@given(data_sets(), st.integers(1, 5), SEQ_LENS, st.booleans(), st.booleans(), st.integers(0, 2**63))
def test_every_supervised_token_is_a_target_once_an_epoch_in_its_own_document(
    examples: Examples, batch_size: int, seq_len: int, packing: bool, shuffle: bool, seed: int
) -> None:
    loader = Loader(
        examples, batch_size=batch_size, seq_len=seq_len, packing=packing, shuffle=shuffle, seed=seed, pad_id=7
    )
    batches = list(loader.epoch(3))
    assert predictions_of_batches(batches) == predictions_of_data_set(examples)
    assert len(batches) == loader.batches_per_epoch(3)
    assert sum(batch.n_tokens for batch in batches) == examples.stats.total_tokens
    assert sum(batch.n_supervised for batch in batches) == examples.stats.supervised_tokens


@pytest.mark.property
@settings(deadline=None)
@given(data_sets(), st.booleans(), st.integers(0, 100))
def test_a_batch_does_not_depend_on_which_were_asked_before(examples: Examples, packing: bool, seed: int) -> None:
    forward = Loader(examples, batch_size=2, seq_len=16, packing=packing, seed=seed)
    cursors = [(epoch, index) for epoch in range(2) for index in range(forward.batches_per_epoch(epoch))]
    inorder = [forward.batch(*cursor) for cursor in cursors]
    backward = Loader(examples, batch_size=2, seq_len=16, packing=packing, seed=seed)
    for cursor, expected in reversed(list(zip(cursors, inorder, strict=True))):
        assert same(backward.batch(*cursor), expected)


@pytest.mark.parametrize("packing", [False, True])
def test_an_epoch_resumed_in_the_middle_goes_on_with_the_same_batches(packing: bool) -> None:
    whole = list(Loader(many(), batch_size=8, seq_len=64, packing=packing, seed=5).epoch(1))
    resumed = list(Loader(many(), batch_size=8, seq_len=64, packing=packing, seed=5).epoch(1, start=3))
    assert all(same(left, right) for left, right in zip(whole[3:], resumed, strict=True))


@pytest.mark.parametrize("packing", [False, True])
def test_epochs_and_seeds_give_different_orders(packing: bool) -> None:
    first = Loader(many(), batch_size=8, seq_len=64, packing=packing, seed=1)
    other = Loader(many(), batch_size=8, seq_len=64, packing=packing, seed=2)
    assert not same(first.batch(0, 0), first.batch(1, 0))
    assert not same(first.batch(0, 0), other.batch(0, 0))


def test_without_shuffling_rows_keep_the_order_of_the_data_in_every_epoch() -> None:
    loader = Loader(many(20), batch_size=8, seq_len=64, shuffle=False)
    for epoch in (0, 1):
        firsts = [int(token) for batch in loader.epoch(epoch) for token in batch.tokens[:, 0]]
        assert firsts == [index * 100 for index in range(20)]


def test_the_last_batch_holds_the_rows_that_are_left_and_comes_last() -> None:
    sizes = [batch.tokens.shape[0] for batch in Loader(many(21), batch_size=8, seq_len=64, seed=3).epoch(0)]
    assert sizes == [8, 8, 5]


def test_grouping_by_length_saves_most_of_the_padding() -> None:
    def padding(group_by_length: bool) -> float:
        loader = Loader(many(800), batch_size=8, seq_len=64, seed=3, group_by_length=group_by_length)
        batches = list(loader.epoch(0))
        return 1 - sum(batch.n_tokens for batch in batches) / sum(batch.tokens.size for batch in batches)

    assert padding(group_by_length=True) < 0.5 * padding(group_by_length=False)


def test_grouped_batches_do_not_come_sorted_by_length() -> None:
    widths = [batch.tokens.shape[1] for batch in Loader(many(400), batch_size=8, seq_len=64, seed=3).epoch(0)]
    assert widths != sorted(widths)


def test_packing_leaves_little_padding() -> None:
    batches = list(Loader(many(800), batch_size=4, seq_len=128, packing=True).epoch(0))
    assert sum(batch.n_tokens for batch in batches) / sum(batch.tokens.size for batch in batches) > 0.95


def test_documents_of_one_position_and_of_the_full_window_pack() -> None:
    examples = examples_of([1, 2], list(range(10, 27)), [3, 4])
    loader = Loader(examples, batch_size=4, seq_len=16, packing=True, shuffle=False)
    batch = loader.batch(0, 0)
    assert batch.tokens.shape == (2, 16)
    assert predictions_of_batches([batch]) == predictions_of_data_set(examples)


@pytest.mark.parametrize("index", [-1, 3])
def test_a_batch_outside_the_epoch_is_an_error(index: int) -> None:
    with pytest.raises(IndexError):
        Loader(many(21), batch_size=8, seq_len=64).batch(0, index)


def test_an_example_longer_than_the_window_is_an_error() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        Loader(examples_of([1, 2, 3, 4]), batch_size=1, seq_len=2)


@pytest.mark.parametrize("arguments", [{"batch_size": 0}, {"batch_size": 1, "seed": -1}])
def test_impossible_settings_are_errors(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Loader(many(2), seq_len=64, **arguments)


def test_a_loader_of_nothing_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one example"):
        Loader(selection(many(1), np.arange(0)), batch_size=1, seq_len=8)


def test_validation_may_be_grouped_by_length_without_being_shuffled() -> None:
    loader = Loader(many(60), batch_size=4, seq_len=64, shuffle=False, group_by_length=True)
    widths = [batch.tokens.shape[1] for batch in loader.epoch(0)]
    assert widths == sorted(widths)
    assert predictions_of_batches(loader.epoch(0)) == predictions_of_data_set(many(60))


@pytest.mark.property
@given(examples=data_sets(), batch_size=st.integers(1, 9), packing=st.booleans(), epoch=st.integers(0, 3))
def test_shapes_are_those_of_the_batches(examples: Examples, batch_size: int, packing: bool, epoch: int) -> None:
    loader = Loader(examples, batch_size=batch_size, seq_len=MAX_POSITIONS, packing=packing, seed=3)
    assert loader.shapes(epoch).tolist() == [list(batch.tokens.shape) for batch in loader.epoch(epoch)]

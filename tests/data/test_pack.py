"""How examples are laid out in rows, and how rows become a batch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.batch import IGNORE
from entrenar_core.data.examples import Examples, ExampleStore
from entrenar_core.data.pack import Rows, fill, one_per_row, pack_best_fit
from tests.data.documents import MAX_POSITIONS, data_sets, examples_of


def packed(lengths: list[int], capacity: int) -> list[list[int]]:
    rows = pack_best_fit(np.array(lengths), np.arange(len(lengths)), capacity)
    return [rows.row(index).tolist() for index in range(len(rows))]


# -- packing --------------------------------------------------------------------------------------------------------


def test_an_example_goes_into_the_fullest_row_that_holds_it() -> None:
    assert packed([6, 7, 3], capacity=10) == [[0], [1, 2]]


def test_a_row_may_be_filled_to_the_last_position() -> None:
    assert packed([4, 6, 10], capacity=10) == [[0, 1], [2]]


def test_a_full_row_takes_nothing_more() -> None:
    assert packed([10, 1], capacity=10) == [[0], [1]]


def test_the_order_given_is_the_order_of_placing() -> None:
    rows = pack_best_fit(np.array([3, 7, 6]), np.array([2, 1, 0]), 10)
    assert [rows.row(index).tolist() for index in range(len(rows))] == [[2], [1, 0]]


@pytest.mark.property
@given(st.lists(st.integers(1, 16), max_size=60))
def test_every_example_is_in_one_row_and_no_row_overflows(lengths: list[int]) -> None:
    rows = packed(lengths, capacity=16)
    assert sorted(example for row in rows for example in row) == list(range(len(lengths)))
    assert all(sum(lengths[example] for example in row) <= 16 for row in rows)


@pytest.mark.property
@given(st.lists(st.integers(1, 16), max_size=60))
def test_at_most_one_row_stays_half_empty(lengths: list[int]) -> None:
    filled = [sum(lengths[example] for example in row) for row in packed(lengths, capacity=16)]
    assert sum(2 * total <= 16 for total in filled) <= 1


# -- filling --------------------------------------------------------------------------------------------------------


def test_labels_are_the_next_token_where_it_is_supervised() -> None:
    examples = examples_of([5, 6, 7, 8], supervised=[[0, 0, 1, 1]])
    batch = fill(examples, one_per_row(np.array([0])), seq_len=3, pad_id=0)
    assert batch.tokens.tolist() == [[5, 6, 7]]
    assert batch.labels.tolist() == [[IGNORE, 7, 8]]
    assert batch.positions.tolist() == [[0, 1, 2]]
    assert batch.starts.tolist() == [[0, 0, 0]]
    assert (batch.n_tokens, batch.n_supervised) == (3, 2)


def test_documents_of_a_row_restart_positions_and_start_where_they_begin() -> None:
    examples = examples_of([5, 6, 7], [8, 9])
    batch = fill(examples, Rows(np.array([0, 1]), np.array([0, 2])), seq_len=3, pad_id=0)
    assert batch.tokens.tolist() == [[5, 6, 8]]
    assert batch.labels.tolist() == [[6, 7, 9]]
    assert batch.positions.tolist() == [[0, 1, 0]]
    assert batch.starts.tolist() == [[0, 0, 2]]


def test_padding_is_ignored_and_starts_itself() -> None:
    examples = examples_of([5, 6, 7], [8, 9])
    batch = fill(examples, one_per_row(np.array([0, 1])), seq_len=4, pad_id=99)
    assert batch.tokens.tolist() == [[5, 6, 99, 99], [8, 99, 99, 99]]
    assert batch.labels.tolist() == [[6, 7, IGNORE, IGNORE], [9, IGNORE, IGNORE, IGNORE]]
    assert batch.positions.tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]
    assert batch.starts.tolist() == [[0, 0, 2, 3], [0, 1, 2, 3]]
    assert (batch.n_tokens, batch.n_supervised) == (3, 3)


@pytest.mark.parametrize(("positions", "width"), [(1, 8), (8, 8), (9, 16), (17, 20), (20, 20)])
def test_width_is_rounded_up_to_eight_and_capped_at_seq_len(positions: int, width: int) -> None:
    batch = fill(examples_of(list(range(positions + 1))), one_per_row(np.array([0])), seq_len=20, pad_id=0)
    assert batch.tokens.shape == (1, width)


def test_every_array_is_int32_and_contiguous() -> None:
    batch = fill(examples_of([5, 6, 7]), one_per_row(np.array([0])), seq_len=16, pad_id=0)
    for values in (batch.tokens, batch.labels, batch.positions, batch.starts):
        assert values.dtype == np.int32
        assert values.flags.c_contiguous


def test_a_value_stands_where_its_document_is_asked_and_nowhere_else() -> None:
    store = ExampleStore()
    store.add([5, 6, 0], b"\0\0\1", 0.5)
    store.add([7, 0], b"\0\1", -3.0)
    batch = fill(store.finish(rows=2), Rows(np.array([0, 1]), np.array([0, 2])), seq_len=8, pad_id=0)
    assert batch.labels.tolist() == [[IGNORE, 0, 0, *[IGNORE] * 5]]
    assert batch.values is not None
    assert batch.values.tolist() == [[0.0, 0.5, -3.0, *[0.0] * 5]]
    assert batch.values.dtype == np.float64


def test_places_say_which_token_of_the_data_set_is_the_target() -> None:
    examples = examples_of([5, 6, 7], [8, 9, 10, 11], supervised=[[0, 1, 1], [0, 0, 1, 1]])
    batch = fill(examples, Rows(np.array([1, 0]), np.array([0, 1, 2])), seq_len=8, pad_id=0)
    assert batch.places is not None
    assert batch.places.tolist() == [[-1, 5, 6, *[-1] * 5], [1, 2, *[-1] * 6]]
    assert batch.places.dtype == np.int64


@pytest.mark.property
@given(data_sets())
def test_the_token_at_its_place_is_the_label_of_each_supervised_position(examples: Examples) -> None:
    rows = pack_best_fit(examples.lengths, np.arange(len(examples))[::-1], 3 * MAX_POSITIONS)
    batch = fill(examples, rows, seq_len=3 * MAX_POSITIONS, pad_id=0)
    assert batch.places is not None
    supervised = batch.labels != IGNORE
    assert np.array_equal(examples.tokens[batch.places[supervised]], batch.labels[supervised])
    assert np.array_equal(np.sort(batch.places[supervised]), np.flatnonzero(examples.supervised))
    assert (batch.places[~supervised] == -1).all()


def test_a_batch_without_values_has_none() -> None:
    assert fill(examples_of([5, 6, 7]), one_per_row(np.array([0])), seq_len=16, pad_id=0).values is None

"""Setting examples aside for validation."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.data.load import DataSet
from entrenar_core.data.loader import Loader
from entrenar_core.data.split import split_validation
from entrenar_core.errors import DataError
from tests.data.documents import examples_of, predictions_of_batches, predictions_of_data_set

TEN_EXAMPLES = examples_of(*([index, 100 + index] for index in range(10)))
TEN = DataSet(TEN_EXAMPLES, np.array([0, 4, 10]), (1.0, 2.0))


def firsts(side: DataSet) -> list[int]:
    """The first token of each example of a side."""
    return side.examples.tokens[side.examples.offsets[:-1]][side.members()].tolist()


def test_the_two_sides_hold_every_example_once_in_the_order_of_the_data() -> None:
    train, val = split_validation(TEN, 0.3, seed=1)
    assert (len(train), len(val)) == (7, 3)
    assert sorted(firsts(train) + firsts(val)) == list(range(10))
    for side in (train, val):
        assert firsts(side) == sorted(firsts(side))
        assert side.examples is TEN_EXAMPLES


def test_loaders_of_the_sides_ask_all_questions_once_between_them() -> None:
    sides = split_validation(TEN, 0.3, seed=1)
    loaders = [
        Loader(side.examples, indices=side.indices, bounds=side.bounds, batch_size=2, seq_len=4) for side in sides
    ]
    asked = [predictions_of_batches(loader.epoch(0)) for loader in loaders]
    assert asked[0] + asked[1] == predictions_of_data_set(TEN_EXAMPLES)
    assert asked[1].total() == 3


def test_a_seed_gives_the_same_split_and_another_seed_another() -> None:
    assert split_validation(TEN, 0.5, seed=1)[1].digest() == split_validation(TEN, 0.5, seed=1)[1].digest()
    assert split_validation(TEN, 0.5, seed=1)[1].digest() != split_validation(TEN, 0.5, seed=2)[1].digest()
    train, val = split_validation(TEN, 0.5, seed=1)
    assert len({train.digest(), val.digest(), TEN.digest()}) == 3


@pytest.mark.parametrize(("fraction", "n_val"), [(0.001, 1), (0.999, 9)])
def test_each_side_keeps_at_least_one_example(fraction: float, n_val: int) -> None:
    assert len(split_validation(TEN, fraction, seed=0)[1]) == n_val


def test_counts_of_the_sides_add_up() -> None:
    train, val = split_validation(DataSet(TEN_EXAMPLES, np.array([0, 10]), (1.0,)), 0.3, seed=1)
    assert (train.counts() + val.counts()).tolist() == [10, 10, 10]


def test_counts_are_those_of_an_epoch_with_its_weights() -> None:
    assert TEN.counts().tolist() == [4 + 2 * 6] * 3


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_and_1_is_an_error(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        split_validation(TEN, fraction, seed=0)


def test_one_example_cannot_be_split() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split_validation(DataSet(examples_of([1, 2]), np.array([0, 1]), (1.0,)), 0.5, seed=0)


def test_the_sides_know_which_source_their_examples_come_from() -> None:
    for side in split_validation(TEN, 0.5, seed=1):
        assert all(first < 4 for first in firsts(side)[: side.bounds[1]])
        assert all(first >= 4 for first in firsts(side)[side.bounds[1] :])
        assert side.bounds[-1] == len(side)


def test_validation_visits_every_example_once_whatever_the_weights() -> None:
    train, val = split_validation(TEN, 0.5, seed=1)
    assert (train.weights, val.weights) == ((1.0, 2.0), (1.0, 1.0))

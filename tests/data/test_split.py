"""Setting examples aside for validation."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.data.load import DataSet
from entrenar_core.data.split import split_validation
from entrenar_core.errors import DataError
from tests.data.documents import examples_of, predictions_of_data_set

TEN_EXAMPLES = examples_of(*([index, 100 + index] for index in range(10)))
TEN = DataSet(TEN_EXAMPLES, np.array([0, 4, 10]), (1.0, 2.0))


def test_the_two_sides_hold_every_example_once_in_the_order_of_the_data() -> None:
    train, val = split_validation(TEN, 0.3, seed=1)
    train, val = train.examples, val.examples
    assert (len(train), len(val)) == (7, 3)
    assert predictions_of_data_set(train) + predictions_of_data_set(val) == predictions_of_data_set(TEN_EXAMPLES)
    for side in (train, val):
        firsts = side.tokens[side.offsets[:-1]].tolist()
        assert firsts == sorted(firsts)


def test_a_seed_gives_the_same_split_and_another_seed_another() -> None:
    assert (
        split_validation(TEN, 0.5, seed=1)[1].examples.digest()
        == split_validation(TEN, 0.5, seed=1)[1].examples.digest()
    )
    assert (
        split_validation(TEN, 0.5, seed=1)[1].examples.digest()
        != split_validation(TEN, 0.5, seed=2)[1].examples.digest()
    )


@pytest.mark.parametrize(("fraction", "n_val"), [(0.001, 1), (0.999, 9)])
def test_each_side_keeps_at_least_one_example(fraction: float, n_val: int) -> None:
    assert len(split_validation(TEN, fraction, seed=0)[1].examples) == n_val


def test_stats_of_the_sides_add_up() -> None:
    train, val = split_validation(TEN, 0.3, seed=1)
    tokens = [side.examples.stats.total_tokens for side in (train, val)]
    assert sum(tokens) == TEN_EXAMPLES.stats.total_tokens


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_fraction_outside_0_and_1_is_an_error(fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        split_validation(TEN, fraction, seed=0)


def test_one_example_cannot_be_split() -> None:
    with pytest.raises(DataError, match="cannot be split"):
        split_validation(DataSet(examples_of([1, 2]), np.array([0, 1]), (1.0,)), 0.5, seed=0)


def test_the_sides_know_which_source_their_examples_come_from() -> None:
    train, val = split_validation(TEN, 0.5, seed=1)
    for side in (train, val):
        firsts = side.examples.tokens[side.examples.offsets[:-1]]
        assert (firsts[: side.bounds[1]] < 4).all()
        assert (firsts[side.bounds[1] :] >= 4).all()
        assert side.bounds[-1] == len(firsts)


def test_validation_visits_every_example_once_whatever_the_weights() -> None:
    train, val = split_validation(TEN, 0.5, seed=1)
    assert (train.weights, val.weights) == ((1.0, 2.0), (1.0, 1.0))

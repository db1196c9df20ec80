"""Targets are numbered in the order of the data set, over the examples that are used."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.loader import Loader
from entrenar_core.distill.targets import Targets, ranges_of_examples
from entrenar_core.errors import ConfigError
from tests.data.documents import examples_of


@pytest.fixture
def examples() -> Examples:
    """Targets 11 and 12; 22; 31, 32 and 33."""
    return examples_of([10, 11, 12], [20, 21, 22], [30, 31, 32, 33], supervised=[[0, 1, 1], [0, 0, 1], [0, 1, 1, 1]])


def test_targets_of_all_examples(examples: Examples) -> None:
    targets = Targets.of(examples)
    assert examples.tokens[targets.places].tolist() == [11, 12, 22, 31, 32, 33]
    assert targets.borders.tolist() == [0, 2, 3, 6]
    assert len(targets) == 6


def test_targets_of_some_examples(examples: Examples) -> None:
    targets = Targets.of(examples, np.array([0, 2]))
    assert examples.tokens[targets.places].tolist() == [11, 12, 31, 32, 33]
    assert targets.borders.tolist() == [0, 2, 5]
    assert targets.examples_of(slice(0, 2)).tolist() == [0]
    assert targets.examples_of(slice(2, 5)).tolist() == [2]


def test_the_digest_knows_data_and_choice(examples: Examples) -> None:
    one = Targets.of(examples).digest
    assert Targets.of(examples, np.arange(3)).digest == one
    assert Targets.of(examples, np.array([0, 1])).digest != one
    assert Targets.of(examples_of([10, 11, 12], [20, 21, 22], [30, 31, 32, 33])).digest != one


def test_indices_must_ascend(examples: Examples) -> None:
    for indices in ([1, 0], [1, 1]):
        with pytest.raises(ValueError, match="ascend"):
            Targets.of(examples, np.array(indices))


@pytest.mark.parametrize("packing", [False, True])
def test_batches_ask_for_every_target_once_an_epoch(examples: Examples, packing: bool) -> None:
    indices = np.array([0, 2])
    targets = Targets.of(examples, indices)
    loader = Loader(examples, batch_size=1, seq_len=5, packing=packing, seed=3, indices=indices)
    asked = [targets.numbers_of(batch) for batch in loader.epoch(0)]
    assert sorted(np.concatenate(asked).tolist()) == list(range(len(targets)))


def test_the_numbers_of_a_batch_are_in_the_order_of_its_labels(examples: Examples) -> None:
    targets = Targets.of(examples)
    batch = Loader(examples, batch_size=3, seq_len=5, seed=1).batch(0, 0)
    labels = batch.labels[batch.labels >= 0]
    assert examples.tokens[targets.places[targets.numbers_of(batch)]].tolist() == labels.tolist()


@pytest.mark.parametrize("unused", [1, 2])
def test_a_batch_of_other_examples_is_refused(examples: Examples, unused: int) -> None:
    batch = Loader(examples, batch_size=1, seq_len=5, indices=np.array([unused])).batch(0, 0)
    with pytest.raises(ValueError, match="is no target of the examples that are used"):
        Targets.of(examples, np.array([0])).numbers_of(batch)


def test_a_batch_without_places_says_what_to_do() -> None:
    ones = np.ones((1, 2), np.int32)
    with pytest.raises(ConfigError, match="read as a whole"):
        Targets.of(examples_of([1, 1, 1])).numbers_of(Batch(ones, ones, ones, ones, 2, 2))


def test_ranges_are_as_full_as_they_may_be() -> None:
    borders = np.array([0, 3, 5, 9, 10, 21, 22])
    assert ranges_of_examples(borders, 5) == (0, 5, 10, 21, 22)
    assert ranges_of_examples(borders, 1) == (0, 3, 5, 9, 10, 21, 22)
    assert ranges_of_examples(borders, 22) == (0, 22)


@pytest.mark.property
@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(1, 20))
def test_ranges_end_where_examples_do_and_are_only_too_long_for_one_example(sizes: list[int], most: int) -> None:
    borders = np.cumsum([0, *sizes])
    cuts = ranges_of_examples(borders, most)
    assert cuts[0] == 0
    assert cuts[-1] == borders[-1]
    assert set(cuts) <= set(borders.tolist())
    for first, last in pairwise(cuts):
        assert first < last
        assert last - first <= most or ((borders > first) & (borders < last)).sum() == 0

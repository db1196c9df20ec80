"""How often a source is visited: its weight, evenly in the long run."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.data.loader import Loader
from entrenar_core.data.visits import visits
from tests.data.documents import examples_of

BOUNDS = np.array([0, 4, 10], dtype=np.int64)


def test_weight_one_visits_every_example_once_in_order() -> None:
    assert visits(BOUNDS, [1.0, 1.0], seed=3, epoch=0).tolist() == list(range(10))


def test_weight_two_visits_every_example_twice() -> None:
    assert Counter(visits(BOUNDS, [2.0, 1.0], seed=3, epoch=0).tolist()) == {
        **{index: 2 for index in range(4)},
        **{index: 1 for index in range(4, 10)},
    }


def test_half_a_source_comes_in_one_epoch_and_the_other_half_in_the_next() -> None:
    first, second = (visits(BOUNDS, [1.0, 0.5], seed=3, epoch=epoch)[4:].tolist() for epoch in (0, 1))
    assert len(first) == len(second) == 3
    assert sorted(first + second) == list(range(4, 10))


def test_a_tiny_weight_still_visits_one_example() -> None:
    assert len(visits(BOUNDS, [1.0, 1e-6], seed=3, epoch=0)) == 5


def test_a_source_without_examples_has_no_visits() -> None:
    assert visits(np.array([0, 2, 2]), [1.0, 3.0], seed=0, epoch=0).tolist() == [0, 1]


@pytest.mark.property
@given(
    count=st.integers(1, 30),
    weight=st.floats(0.05, 3.0),
    seed=st.integers(0, 2**32),
    epochs=st.integers(1, 12),
)
def test_no_example_is_ever_two_visits_ahead_of_another(count: int, weight: float, seed: int, epochs: int) -> None:
    seen: Counter[int] = Counter({index: 0 for index in range(count)})
    for epoch in range(epochs):
        seen.update(visits(np.array([0, count]), [weight], seed=seed, epoch=epoch).tolist())
    assert max(seen.values()) - min(seen.values()) <= 1


def test_a_loader_visits_its_sources_by_weight() -> None:
    examples = examples_of([1, 2], [3, 4], [5, 6], [7, 8])
    loader = Loader(
        examples, batch_size=2, seq_len=4, seed=1, bounds=np.array([0, 2, 4]), weights=[1.0, 2.0], group_by_length=False
    )
    seen = Counter(int(row[0]) for batch in loader.epoch(0) for row in batch.tokens)
    assert seen == {1: 1, 3: 1, 5: 2, 7: 2}
    assert loader.batches_per_epoch(0) == 3
    assert loader.epochs_done(1, 3) == 2.0

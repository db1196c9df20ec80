"""Small data sets for the tests, and what a batch must be able to prove about itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from hypothesis import strategies as st

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.data.examples import Example, Examples, ExampleStore, Int64Array

Prediction = tuple[tuple[int, ...], int]
"""What a position sees of its document, and the target it is asked for."""

MAX_POSITIONS = 12


def examples_of(*documents: Sequence[int], supervised: Sequence[Sequence[int]] | None = None) -> Examples:
    """A data set of token lists; every token but the first is trained unless `supervised` says otherwise."""
    store = ExampleStore()
    for index, tokens in enumerate(documents):
        flags = bytes(supervised[index]) if supervised else b"\1" * len(tokens)
        assert store.add(tokens, flags)
    return store.finish(rows=len(documents))


def selection(examples: Examples, indices: Int64Array) -> Examples:
    """The examples at `indices` (int64, any order) as a data set of their own; its stats count only themselves."""
    store = ExampleStore()
    for index in indices.tolist():
        example = examples[index]
        value = None if examples.values is None else float(examples.values[index])
        assert store.add(example.tokens.tolist(), example.supervised.tobytes(), value)
    return store.finish(rows=len(indices))


@st.composite
def data_sets(draw: st.DrawFn, max_size: int = 40) -> Examples:
    """1 to `max_size` examples of 1 to MAX_POSITIONS positions, each with at least one target."""
    store = ExampleStore()
    sizes = draw(st.lists(st.integers(2, MAX_POSITIONS + 1), min_size=1, max_size=max_size))
    for number, size in enumerate(sizes):
        flags = draw(st.lists(st.integers(0, 1), min_size=size - 1, max_size=size - 1).filter(any))
        assert store.add([1000 * number + place for place in range(size)], bytes([0, *flags]))
    return store.finish(rows=len(sizes))


def predictions_of_example(example: Example) -> list[Prediction]:
    tokens = example.tokens.tolist()
    return [(tuple(tokens[:place]), tokens[place]) for place in range(1, len(tokens)) if example.supervised[place]]


def predictions_of_data_set(examples: Examples) -> Counter[Prediction]:
    found: Counter[Prediction] = Counter()
    for index in range(len(examples)):
        found.update(predictions_of_example(examples[index]))
    return found


def predictions_of_batches(batches: Iterable[Batch]) -> Counter[Prediction]:
    """Read back from the arrays alone, as attention would: from the start of the document to the position."""
    found: Counter[Prediction] = Counter()
    for batch in batches:
        for row in range(batch.tokens.shape[0]):
            for place in range(batch.tokens.shape[1]):
                if batch.labels[row, place] != IGNORE:
                    seen = batch.tokens[row, batch.starts[row, place] : place + 1]
                    assert batch.positions[row, place] == len(seen) - 1
                    found[tuple(seen.tolist()), int(batch.labels[row, place])] += 1
    return found

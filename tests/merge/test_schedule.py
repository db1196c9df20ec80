"""Pieces of many tensors on several threads: every pass sees all of them, and results come in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from entrenar_core.merge.passes import Combine, Floats, Inputs, Pass, Passes, Piece, cut
from entrenar_core.merge.schedule import Task, run_tasks


class Tensor:
    """A vector that is merged in memory, one value a piece."""

    def __init__(self, values: list[float], begin: Callable[[], Passes]) -> None:
        self.values = np.array(values, np.float32)
        self.merged = np.full(len(values), np.nan, np.float32)
        self.task = Task(begin, cut(len(values), 1, 1), self.read, self.write)

    def read(self, piece: Piece, worker: int) -> Inputs:
        del worker
        return Inputs(piece, self.values[None, piece.first_row : piece.first_row + piece.n_rows, None], None)

    def write(self, inputs: Inputs, combine: Combine, worker: int) -> None:
        del worker
        start = inputs.piece.first_row
        combine(inputs, self.merged[start : start + inputs.piece.n_rows, None])


def less_the_mean() -> Passes:
    """Two passes: the numbers of the pieces in order, and a sum; then x - mean."""
    in_order = yield Pass(lambda inputs: inputs.piece.number)
    assert in_order == sorted(in_order)
    total, count = yield Pass(
        lambda inputs: (float(inputs.models.sum()), inputs.models.size), lambda a, b: (a[0] + b[0], a[1] + b[1])
    )

    def combine(inputs: Inputs, out: Floats) -> None:
        out[...] = inputs.models[0] - np.float32(total / count)

    return combine


def at_once() -> Passes:
    def combine(inputs: Inputs, out: Floats) -> None:
        out[...] = -inputs.models[0]

    return combine
    yield


@pytest.mark.parametrize("n_workers", [1, 2, 5])
def test_every_tensor_is_merged_whatever_the_number_of_threads(n_workers: int) -> None:
    lengths = [1, 7, 30, 2, 1, 40]
    tensors = [Tensor([float(i) for i in range(n)], (less_the_mean, at_once)[n % 2]) for n in lengths]
    run_tasks([tensor.task for tensor in tensors], n_workers)
    for tensor, n in zip(tensors, lengths, strict=True):
        expected = -tensor.values if n % 2 else tensor.values - tensor.values.mean()
        np.testing.assert_array_equal(tensor.merged, expected)


def test_threads_without_a_piece_take_those_of_the_next_tensor() -> None:
    released = threading.Event()

    def slow() -> Passes:
        yield Pass(lambda inputs: released.wait(10))
        return (yield from at_once())

    def quick() -> Passes:
        yield Pass(lambda inputs: released.set())
        return (yield from at_once())

    first, second = Tensor([1.0], slow), Tensor([2.0], quick)
    run_tasks([first.task, second.task], 2)
    assert (first.merged, second.merged) == (-1, -2)


def failing(number: int) -> Callable[[], Passes]:
    def begin() -> Passes:
        def look(inputs: Inputs) -> Any:
            if inputs.piece.number == number:
                raise ValueError(f"piece {number}")

        yield Pass(look)
        return (yield from at_once())

    return begin


@pytest.mark.parametrize("n_workers", [1, 3])
def test_an_error_ends_the_work_and_comes_out(n_workers: int) -> None:
    tensors = [Tensor([1.0] * 4, at_once), Tensor([1.0] * 4, failing(2)), Tensor([1.0] * 4, at_once)]
    with pytest.raises(ValueError, match="piece 2"):
        run_tasks([tensor.task for tensor in tensors], n_workers)
    assert np.isnan(tensors[1].merged).all()


@pytest.mark.parametrize("where", ["beginning", "after a pass"])
def test_a_method_that_fails_ends_the_work(where: str) -> None:
    def begin() -> Passes:
        if where == "after a pass":
            yield Pass(lambda inputs: None)
        raise ArithmeticError(where)

    with pytest.raises(ArithmeticError, match=where):
        run_tasks([Tensor([1.0, 2.0], begin).task, Tensor([1.0], at_once).task], 2)


def test_who_watches_hears_of_pieces_and_tensors() -> None:
    heard: list[tuple[int, int]] = []
    tensors = [Tensor([1.0, 2.0], at_once), Tensor([1.0, 2.0, 3.0], less_the_mean)]
    run_tasks([tensor.task for tensor in tensors], 2, lambda pieces, tasks: heard.append((pieces, tasks)))
    assert heard[-1] == (5, 2)
    assert len(set(heard)) == len(heard), "only changes are told"


def test_what_who_watches_raises_ends_the_work() -> None:
    looked_at: list[int] = []

    def until_interrupted() -> Passes:
        def look(inputs: Inputs) -> None:
            looked_at.append(inputs.piece.number)
            time.sleep(0.001)

        yield Pass(look)
        return (yield from at_once())

    def interrupt(pieces: int, tasks: int) -> None:
        raise KeyboardInterrupt

    tensor = Tensor([1.0] * 5000, until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_tasks([tensor.task], 1, interrupt)
    assert 0 < len(looked_at) < len(tensor.values)
    assert np.isnan(tensor.merged).all()


@pytest.mark.parametrize(
    ("n_rows", "n_columns", "values", "expected"),
    [(5, 10, 20, [(0, 2), (2, 2), (4, 1)]), (2, 100, 20, [(0, 1), (1, 1)]), (1, 3, 100, [(0, 1)])],
    ids=["whole rows", "a row at least", "one piece"],
)
def test_a_tensor_is_cut_into_whole_rows(
    n_rows: int, n_columns: int, values: int, expected: list[tuple[int, int]]
) -> None:
    pieces = cut(n_rows, n_columns, values)
    assert [(piece.first_row, piece.n_rows) for piece in pieces] == expected
    assert [piece.number for piece in pieces] == list(range(len(expected)))

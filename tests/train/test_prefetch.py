"""Batches that are made ahead are the batches of the source, and its errors come where its batches would."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from entrenar_core.data.batch import Batch
from entrenar_core.errors import DataError
from entrenar_core.train.prefetch import AHEAD, Prefetched

COUNT = 5


def numbered(epoch: int, index: int) -> Batch:
    tokens = np.array([[epoch, index]], np.int32)
    return Batch(tokens, tokens, tokens, tokens, 2, 2)


class Source:
    """Batches that say which they are, and what was asked for, from which threads."""

    def __init__(self, broken: int | None = None) -> None:
        self.broken = broken
        self.asked: list[tuple[int, int]] = []
        self.threads: set[int] = set()

    def batches_per_epoch(self, epoch: int) -> int:
        return COUNT + epoch

    def epochs_done(self, epoch: int, batches: int) -> float:
        return epoch + batches / self.batches_per_epoch(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        self.threads.add(threading.get_ident())
        self.asked.append((epoch, index))
        if index == self.broken:
            raise DataError(f"batch {index} is damaged")
        return numbered(epoch, index)


def test_each_batch_is_made_once_in_order_by_one_other_thread() -> None:
    source = Source()
    ahead = Prefetched(source)
    for epoch in range(2):
        count = ahead.batches_per_epoch(epoch)
        assert count == COUNT + epoch
        for index in range(count):
            assert ahead.batch(epoch, index).tokens.tolist() == [[epoch, index]]
    ahead.close()
    assert source.asked == [(epoch, index) for epoch in range(2) for index in range(COUNT + epoch)]
    assert len(source.threads) == 1
    assert threading.get_ident() not in source.threads


def test_some_batches_wait_while_the_last_one_is_used() -> None:
    source = Source()
    ahead = Prefetched(source)
    ahead.batch(0, 1)
    ahead.epochs_done(0, 1)  # asked of the same thread, so what came before is done
    assert source.asked == [(0, 1 + later) for later in range(1 + AHEAD)]
    ahead.close()


def test_any_batch_may_be_asked_for() -> None:
    ahead = Prefetched(Source())
    for epoch, index in ((0, 0), (0, 3), (1, 2), (0, 1)):
        assert ahead.batch(epoch, index).tokens.tolist() == [[epoch, index]]
    assert ahead.epochs_done(1, 3) == 1.5
    ahead.close()


def test_an_error_is_raised_where_the_batch_is_asked_for() -> None:
    ahead = Prefetched(Source(broken=2))
    for index in range(2):
        ahead.batch(0, index)
    with pytest.raises(DataError, match="batch 2 is damaged"):
        ahead.batch(0, 2)
    ahead.close()

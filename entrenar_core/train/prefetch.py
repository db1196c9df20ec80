"""Batches made ahead, on a thread of their own, while a device computes on the ones before."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor

from entrenar_core.data.batch import Batch
from entrenar_core.train.parts import BatchSource

AHEAD = 2
"""Batches that are waiting at most."""


class Prefetched:
    """A `BatchSource` that makes the next batches of the epoch while the last one is used; the same batches.

    All work on the source is done by one thread, so a source need not know of threads. What goes wrong is raised where
    the batch is asked for.
    """

    def __init__(self, source: BatchSource) -> None:
        self._source = source
        self._thread = ThreadPoolExecutor(1, "batches")
        self._waiting: dict[tuple[int, int], Future[Batch]] = {}
        self._count: tuple[int, int] = (-1, 0)

    def batches_per_epoch(self, epoch: int) -> int:
        if self._count[0] != epoch:
            self._count = (epoch, self._thread.submit(self._source.batches_per_epoch, epoch).result())
        return self._count[1]

    def epochs_done(self, epoch: int, batches: int) -> float:
        return self._thread.submit(self._source.epochs_done, epoch, batches).result()

    def batch(self, epoch: int, index: int) -> Batch:
        wanted = self._waiting.pop((epoch, index), None) or self._thread.submit(self._source.batch, epoch, index)
        batch = wanted.result()
        stop = min(index + 1 + AHEAD, self.batches_per_epoch(epoch))
        ahead = [(epoch, later) for later in range(index + 1, stop)]
        self._waiting = {key: self._waiting.get(key) or self._thread.submit(self._source.batch, *key) for key in ahead}
        return batch

    def close(self) -> None:
        """Stop making batches."""
        self._thread.shutdown(cancel_futures=True)

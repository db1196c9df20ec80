"""Hands out batches by (epoch, index): the same batch for the same pair, whatever was asked before.

The plan of an epoch (which examples share a row, which rows a batch) is made from (seed, epoch) alone and kept for the
epoch in use, so a checkpoint needs only the two numbers to go on at the exact batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.order import Int64Array, Purpose, group_by_length, permutation, shuffle_batches
from entrenar_core.data.pack import Rows, batch_widths, fill, one_per_row, pack_best_fit
from entrenar_core.data.visits import visits


class Loader:
    """Batches of a data set.

    Without packing a row is an example and a batch is as wide as its longest. With packing a row holds examples up to
    `seq_len` positions. Every example comes once an epoch, unless weights say otherwise; the last batch has the rows
    that are left, maybe fewer.

    Args:
        batch_size: rows of a batch.
        seq_len: the widest a batch may be; no example may be longer.
        shuffle: a new order each epoch; otherwise the order of the data set.
        seed: non-negative.
        pad_id: the token on padding positions, which no label or document refers to.
        group_by_length: without packing, sort by length inside windows of 50 batches, and (when shuffling) shuffle the
            batches, which saves padding; default: as `shuffle`.
        indices: int64, the examples that are used, ascending; default: all.
        bounds: int64 [sources + 1]; source i has the used examples bounds[i] to bounds[i + 1]. Default: one source.
        weights: how often the examples of each source come in an epoch; default: once.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        batch_size: int,
        seq_len: int,
        packing: bool = False,
        shuffle: bool = True,
        seed: int = 0,
        pad_id: int = 0,
        group_by_length: bool | None = None,
        indices: Int64Array | None = None,
        bounds: Int64Array | None = None,
        weights: Sequence[float] | None = None,
    ) -> None:
        count = len(examples) if indices is None else len(indices)
        if count == 0:
            raise ValueError("a loader needs at least one example")
        if batch_size < 1 or seed < 0:
            raise ValueError(f"batch_size {batch_size} must be positive and seed {seed} not negative")
        longest = int((examples.lengths if indices is None else examples.lengths[indices]).max())
        if longest > seq_len:
            raise ValueError(f"an example of {longest} positions does not fit seq_len {seq_len}")
        self.examples = examples
        self.batch_size = batch_size
        self.seq_len = seq_len
        self.packing = packing
        self.shuffle = shuffle
        self.seed = seed
        self.pad_id = pad_id
        self.group_by_length = shuffle if group_by_length is None else group_by_length
        self.indices = indices
        self.bounds = np.array([0, count], dtype=np.int64) if bounds is None else bounds
        self.weights = (1.0,) * (len(self.bounds) - 1) if weights is None else tuple(weights)
        self._plan: tuple[int, Rows] | None = None

    def batches_per_epoch(self, epoch: int) -> int:
        """How many batches `epoch` has; with packing and shuffling it may differ a little from epoch to epoch."""
        return -(-len(self._rows(epoch)) // self.batch_size)

    def epochs_done(self, epoch: int, batches: int) -> float:
        """How many times the data have been gone through after `batches` batches of `epoch`."""
        return epoch + batches / self.batches_per_epoch(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of `epoch`, both counted from 0."""
        count = self.batches_per_epoch(epoch)
        if not 0 <= index < count:
            raise IndexError(f"batch {index} of {count} in epoch {epoch}")
        rows = self._rows(epoch)
        begin = index * self.batch_size
        chosen = rows.take(np.arange(begin, min(begin + self.batch_size, len(rows))))
        return fill(self.examples, chosen, seq_len=self.seq_len, pad_id=self.pad_id)

    def shapes(self, epoch: int) -> Int64Array:
        """Rows and width of every batch of `epoch`, int64 [batches, 2], without making them."""
        rows = self._rows(epoch)
        filled = np.add.reduceat(self.examples.lengths[rows.examples], rows.offsets[:-1])
        firsts = np.arange(0, len(rows), self.batch_size)
        counts = np.diff([*firsts, len(rows)])
        return np.stack([counts, batch_widths(np.maximum.reduceat(filled, firsts), self.seq_len)], axis=1)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` in order, from batch `start` on."""
        for index in range(start, self.batches_per_epoch(epoch)):
            yield self.batch(epoch, index)

    def _rows(self, epoch: int) -> Rows:
        if self._plan is None or self._plan[0] != epoch:
            self._plan = (epoch, self._plan_rows(epoch))
        return self._plan[1]

    def _plan_rows(self, epoch: int) -> Rows:
        lengths = self.examples.lengths
        order = visits(self.bounds, self.weights, seed=self.seed, epoch=epoch)
        if self.indices is not None:
            order = self.indices[order]
        if self.shuffle:
            order = order[permutation(len(order), seed=self.seed, epoch=epoch, purpose=Purpose.EXAMPLES)]
        if self.packing:
            rows = pack_best_fit(lengths, order, self.seq_len)
            # Rows opened first had the most time to fill up, so their order says how full they are.
            last = permutation(len(rows), seed=self.seed, epoch=epoch, purpose=Purpose.ROWS)
            return rows.take(last) if self.shuffle else rows
        if self.group_by_length:
            order = group_by_length(order, lengths, self.batch_size)
            if self.shuffle:
                order = shuffle_batches(order, self.batch_size, seed=self.seed, epoch=epoch)
        return one_per_row(order)

"""Lays examples out in rows: one a row, or several in a row of seq_len positions so that little padding is left.

Packing is best-fit over the order it is given: an example goes into the open row with the least room that still holds
it, else opens a row. `fill` then copies any set of rows into a Batch in a few vectorised steps; the documents of a row
stay apart through `starts` and restarted `positions`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.data.examples import Examples

Int64Array = npt.NDArray[np.int64]

ROW_MULTIPLE = 8
"""The width of a batch is rounded up to a multiple of this, which suits vector kernels."""


@dataclass(frozen=True)
class Rows:
    """Which examples lie in which row: row r holds ``examples[offsets[r]:offsets[r + 1]]``, from left to right."""

    examples: Int64Array
    offsets: Int64Array

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def row(self, index: int) -> Int64Array:
        """int64 [number of documents of the row]."""
        return self.examples[self.offsets[index] : self.offsets[index + 1]]

    def take(self, order: Int64Array) -> Rows:
        """The rows at `order` (int64 row indices), in that order."""
        parts = [self.row(int(index)) for index in order]
        sizes = np.array([len(part) for part in parts], dtype=np.int64)
        empty = np.empty(0, dtype=np.int64)
        return Rows(np.concatenate([empty, *parts]), _starts_of(sizes))


def one_per_row(order: Int64Array) -> Rows:
    """Each example of `order` in a row of its own."""
    return Rows(order, np.arange(len(order) + 1, dtype=np.int64))


def pack_best_fit(lengths: Int64Array, order: Int64Array, capacity: int) -> Rows:
    """Pack the examples of `order` into rows of `capacity` positions; rows are in the order in which they were opened.

    Args:
        lengths: int64, positions of each example, 1..capacity.
        order: int64, the example indices in the order in which they are placed.

    The open rows are kept by the room they have left, and a bit set of the rooms that exist finds the smallest one that
    suffices without a search, so that a million examples take a second or two.
    """
    rows: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(capacity + 1)]
    rooms = 0
    for example, length in zip(order.tolist(), lengths[order].tolist(), strict=True):
        fitting = rooms >> length
        if fitting:
            room = length + (fitting & -fitting).bit_length() - 1
            row = by_room[room].pop()
            if not by_room[room]:
                rooms ^= 1 << room
            rows[row].append(example)
        else:
            room, row = capacity, len(rows)
            rows.append([example])
        left = room - length
        if left:
            by_room[left].append(row)
            rooms |= 1 << left
    sizes = np.array([len(row) for row in rows], dtype=np.int64)
    return Rows(np.array([example for row in rows for example in row], dtype=np.int64), _starts_of(sizes))


def fill(examples: Examples, rows: Rows, *, seq_len: int, pad_id: int) -> Batch:
    """Copy `rows` into a batch as wide as its fullest row, rounded up to a multiple of 8 but not beyond `seq_len`."""
    documents, per_row = rows.examples, np.diff(rows.offsets)
    first = examples.offsets[documents]
    length = examples.offsets[documents + 1] - first - 1
    row_of = np.repeat(np.arange(len(rows)), per_row)
    before = _starts_of(length)
    column = before[:-1] - before[rows.offsets[:-1]][row_of]
    width = int(batch_widths((column + length).max(), seq_len))

    inside = np.arange(before[-1]) - np.repeat(before[:-1], length)
    source = np.repeat(first, length) + inside
    target = np.repeat(row_of * width + column, length) + inside

    shape = (len(rows), width)
    tokens = np.full(shape, pad_id, dtype=np.int32)
    labels = np.full(shape, IGNORE, dtype=np.int32)
    positions = np.zeros(shape, dtype=np.int32)
    starts = np.tile(np.arange(width, dtype=np.int32), (len(rows), 1))
    supervised = examples.supervised[source + 1]
    tokens.reshape(-1)[target] = examples.tokens[source]
    labels.reshape(-1)[target] = np.where(supervised, examples.tokens[source + 1], IGNORE)
    positions.reshape(-1)[target] = inside
    starts.reshape(-1)[target] = np.repeat(column, length)
    places = np.full(shape, -1, dtype=np.int64)
    places.reshape(-1)[target] = np.where(supervised, source + 1, -1)
    values = None
    if examples.values is not None:
        values = np.zeros(shape, dtype=np.float64)
        of_position = np.repeat(examples.values[documents], length)
        values.reshape(-1)[target] = np.where(supervised, of_position, 0.0)
    n_supervised = int(np.count_nonzero(supervised))
    return Batch(tokens, labels, positions, starts, int(before[-1]), n_supervised, values, places)


def batch_widths(positions: Int64Array, seq_len: int) -> Int64Array:
    """Widths of batches whose fullest rows have `positions` positions: a multiple of 8, but not beyond `seq_len`."""
    return np.minimum(seq_len, -(-positions // ROW_MULTIPLE) * ROW_MULTIPLE)


def _starts_of(sizes: Int64Array) -> Int64Array:
    return np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)

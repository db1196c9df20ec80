"""Reads short runs of rows from the row groups of a source, and gathers them for the tokenizer."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from entrenar_core.data.opening import ENCODED_BYTES, OpenedSource, pieces_of
from entrenar_core.data.row_encoders import Rows
from entrenar_core.data.source import RowGroup

OPEN_GROUPS = 16
"""Row groups that are kept open to be read on; each holds a page or two of its columns in memory."""


@dataclass
class _Cursor:
    """A row group that is being read: batches come in order, `pending` is what is left of the last one."""

    batches: Iterator[pa.RecordBatch]
    next_row: int
    pending: list[pa.RecordBatch] = field(default_factory=list)


@dataclass
class Gathered:
    """Rows of one source by role, and where each of them stands in it, in parts that are tokenized one by one."""

    rows: list[dict[str, list[Any]]] = field(default_factory=list)
    places: list[list[int]] = field(default_factory=list)
    room: int = 0

    def add(self, rows: Rows, first_row: int, batch: pa.RecordBatch) -> None:
        if self.room < batch.nbytes or not self.rows:
            self.rows.append({role: [] for role in rows})
            self.places.append([])
            self.room = ENCODED_BYTES
        for role, values in rows.items():
            self.rows[-1][role].extend(values)
        self.places[-1].extend(range(first_row, first_row + batch.num_rows))
        self.room -= batch.nbytes

    def parts(self) -> Iterator[tuple[Rows, list[int]]]:
        """The parts in order; each is let go when it has been handed out."""
        while self.rows:
            yield self.rows.pop(0), self.places.pop(0)


class GroupReader:
    """Reads runs of rows from the groups of one source; going on in a group is cheap, going back opens it again."""

    def __init__(self, opened: OpenedSource, groups: Sequence[RowGroup]) -> None:
        self.opened = opened
        self.groups = groups
        self._cursors: OrderedDict[int, _Cursor] = OrderedDict()

    def rows(self, group: int, start: int, count: int) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Batches with rows `start` to `start` + `count` of a group (fewer at its end), each with the place of its
        first row in the source."""
        cursor = self._cursor(group, start)
        first = self.groups[group].first_row
        while count > 0:
            batch = cursor.pending.pop() if cursor.pending else next(cursor.batches, None)
            if batch is None:
                return
            taken = batch.slice(0, count)
            if batch.num_rows > taken.num_rows:
                cursor.pending.append(batch.slice(taken.num_rows))
            count -= taken.num_rows
            for piece in pieces_of(taken):
                yield piece, first + cursor.next_row
                cursor.next_row += piece.num_rows

    def _cursor(self, group: int, start: int) -> _Cursor:
        cursor = self._cursors.pop(group, None)
        if cursor is None or cursor.next_row != start:
            if cursor is not None:
                _close(cursor)
            names = self.opened.columns.names
            batches = self.opened.source.read_group(self.groups[group], names, start, self.opened.optional)
            cursor = _Cursor(iter(batches), start)
        self._cursors[group] = cursor
        if len(self._cursors) > OPEN_GROUPS:
            _close(self._cursors.popitem(last=False)[1])
        return cursor

    def close(self) -> None:
        """Close every group."""
        while self._cursors:
            _close(self._cursors.popitem()[1])


def _close(cursor: _Cursor) -> None:
    with suppress(AttributeError):
        cursor.batches.close()  # type: ignore[attr-defined]

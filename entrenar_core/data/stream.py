"""Batches of data that are larger than memory: read, tokenized and mixed a segment at a time, never as a whole.

A segment is about a thousand rows that a `StreamPlan` draws from all row groups. It takes the place of an epoch for the
training loop, which asks for batches by (segment, index): a checkpoint needs only the two numbers, and a run that is
resumed reads on at the exact sample without going through the data before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from entrenar_core.data.batch import Batch
from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.encoders import Encoding
from entrenar_core.data.examples import Examples
from entrenar_core.data.load import reasons
from entrenar_core.data.loader import Loader
from entrenar_core.data.opening import OpenedSource
from entrenar_core.data.row_encoders import EncodedRow, Rows
from entrenar_core.data.source import RowGroup
from entrenar_core.data.stream_plan import StreamPlan, plan_pass
from entrenar_core.errors import DataError
from entrenar_core.events import Notice, Reporter

SEGMENT_ROWS = 1024
"""Rows that are tokenized and mixed together: enough for the tokenizer's threads and for a good mixture."""

OPEN_GROUPS = 16
"""Row groups that are kept open to be read on; each holds a page or two of its columns in memory."""


@dataclass
class _Cursor:
    """A row group that is being read: batches come in order, `pending` is what is left of the last one."""

    batches: Iterator[pa.RecordBatch]
    next_row: int
    pending: list[pa.RecordBatch] = field(default_factory=list)


@dataclass
class _Gathered:
    """Rows of one source by role, and where each of them stands in it."""

    rows: dict[str, list[Any]] = field(default_factory=dict)
    places: list[int] = field(default_factory=list)

    def add(self, rows: Rows, first_row: int, count: int) -> None:
        for role, values in rows.items():
            self.rows.setdefault(role, []).extend(values)
        self.places.extend(range(first_row, first_row + count))


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
            yield taken, first + cursor.next_row
            cursor.next_row += taken.num_rows
            count -= taken.num_rows

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


class StreamLoader:
    """A BatchSource over sources of any size; its "epochs" are segments of a pass.

    Args:
        sources: at least one.
        encoding: how rows become tokens.
        batch_size, seq_len, packing, shuffle, seed, pad_id: as in `Loader`; packing and sorting by length happen
            inside a segment.
        reporter: hears once that rows are refused, and why.
        segment_rows: for tests.
    """

    def __init__(
        self,
        sources: Sequence[OpenedSource],
        encoding: Encoding,
        *,
        batch_size: int,
        packing: bool,
        shuffle: bool,
        seed: int,
        pad_id: int,
        reporter: Reporter,
        segment_rows: int = SEGMENT_ROWS,
    ) -> None:
        self.encoding = encoding
        self.batch_size = batch_size
        self.packing = packing
        self.shuffle = shuffle
        self.seed = seed
        self.pad_id = pad_id
        self._reporter = reporter
        self._said: set[str] = set()
        self._readers = [GroupReader(one, one.source.groups()) for one in sources]
        self._encoders = [encoding.encoder(one.task, one.source.name) for one in sources]
        self._places = [
            (source, group) for source, reader in enumerate(self._readers) for group in range(len(reader.groups))
        ]
        self._group_rows = [self._readers[source].groups[group].n_rows for source, group in self._places]
        self._weights = [sources[source].weight for source, _ in self._places]
        self._plan: tuple[int, StreamPlan] | None = None
        self._loaded: tuple[int, Loader] | None = None
        first = self._pass(0)
        self.visits_per_segment = max(1, segment_rows // first.run_rows)
        self.segments_per_pass = -(-len(first) // self.visits_per_segment)

    def batches_per_epoch(self, epoch: int) -> int:
        """Batches of segment `epoch`; known once its rows are tokenized."""
        return self._segment(epoch).batches_per_epoch(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of segment `epoch`, both counted from 0."""
        return self._segment(epoch).batch(epoch, index)

    def epochs_done(self, epoch: int, batches: int) -> float:
        """Passes over the data after `batches` batches of segment `epoch`."""
        index, place = divmod(epoch, self.segments_per_pass)
        visits = len(self._pass(index))
        begin = place * self.visits_per_segment
        here = min(self.visits_per_segment, visits - begin) * batches / self.batches_per_epoch(epoch)
        return index + (begin + here) / visits

    def first_examples(self) -> Examples:
        """The examples of the first segment."""
        return self._segment(0).examples

    def close(self) -> None:
        """Close the files."""
        for reader in self._readers:
            reader.close()

    def _pass(self, index: int) -> StreamPlan:
        if self._plan is None or self._plan[0] != index:
            plan = plan_pass(self._group_rows, self._weights, shuffle=self.shuffle, seed=self.seed, index=index)
            self._plan = (index, plan)
        return self._plan[1]

    def _segment(self, segment: int) -> Loader:
        if self._loaded is None or self._loaded[0] != segment:
            self._loaded = (segment, self._load(segment))
        return self._loaded[1]

    def _load(self, segment: int) -> Loader:
        fmt = self.encoding.fmt
        builder = ExampleBuilder(fmt.seq_len, fmt.overlong)
        gathered = self._read(segment)
        for source, encoder in enumerate(self._encoders):
            if gathered[source].places:
                builder.add(self._encode(source, gathered[source]), encoder.default_overlong)
                self._say(encoder.notices)
        examples = builder.finish()
        self._say_what_was_refused(examples.stats.refused)
        if len(examples) == 0:
            raise DataError(
                f"there is nothing to learn from in {examples.stats.rows} rows in a row ({reasons(examples.stats)})",
                where=", ".join(reader.opened.source.name for reader in self._readers),
                hint="check that the chosen columns hold the text, and data.seq_len",
            )
        return Loader(
            examples,
            batch_size=self.batch_size,
            seq_len=fmt.seq_len,
            packing=self.packing,
            shuffle=self.shuffle,
            seed=self.seed,
            pad_id=self.pad_id,
            group_by_length=True,
        )

    def _read(self, segment: int) -> list[_Gathered]:
        """The rows of a segment, source by source."""
        gathered = [_Gathered() for _ in self._readers]
        pass_index, place = divmod(segment, self.segments_per_pass)
        plan = self._pass(pass_index)
        begin = place * self.visits_per_segment
        for visit in range(begin, min(begin + self.visits_per_segment, len(plan))):
            source, group = self._places[int(plan.groups[visit])]
            reader, start = self._readers[source], int(plan.runs[visit]) * plan.run_rows
            for batch, first_row in reader.rows(group, start, plan.run_rows):
                gathered[source].add(reader.opened.rows_of(batch, first_row), first_row, batch.num_rows)
        return gathered

    def _encode(self, source: int, gathered: _Gathered) -> list[EncodedRow | str]:
        locate = self._readers[source].opened.source.locate
        return self._encoders[source].encode(gathered.rows, lambda index: locate(gathered.places[index]))

    def _say(self, messages: Sequence[str]) -> None:
        for message in messages:
            if message not in self._said:
                self._said.add(message)
                self._reporter.emit(Notice("warning", message))

    def _say_what_was_refused(self, refused: Mapping[str, int]) -> None:
        """The first segment that refuses rows for a reason says so; the others would repeat it."""
        for reason, count in refused.items():
            if reason not in self._said:
                self._said.add(reason)
                message = f"some rows are refused: {reason} ({count} in the first segment that has such rows)"
                self._reporter.emit(Notice("warning", message))

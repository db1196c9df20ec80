"""Batches of data that are larger than memory: read, tokenized and mixed a segment at a time, never as a whole.

A segment is about a thousand rows that a `StreamPlan` draws from all row groups. It takes the place of an epoch for the
training loop, which asks for batches by (segment, index): a checkpoint needs only the two numbers, and a run that is
resumed reads on at the exact sample without going through the data before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

from entrenar_core.data.batch import Batch
from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.encoders import Encoding
from entrenar_core.data.examples import Examples
from entrenar_core.data.load import notice_of, reasons
from entrenar_core.data.loader import Loader
from entrenar_core.data.opening import OpenedSource
from entrenar_core.data.order import Int64Array
from entrenar_core.data.stream_plan import StreamPlan, plan_pass
from entrenar_core.data.stream_reader import Gathered, GroupReader
from entrenar_core.errors import DataError
from entrenar_core.events import Notice, Reporter

SEGMENT_ROWS = 1024
"""Rows that are tokenized and mixed together: enough for the tokenizer's threads and for a good mixture."""

SEGMENT_BYTES = 16 << 20
"""Bytes on disk of a segment: fewer rows where they are larger, but enough for some steps."""

STEPS_PER_SEGMENT = 8
"""A segment has rows for at least so many steps, because the last step of a segment may be a smaller one."""

ROWS_PER_PACKED_ROW = 8
"""Rows of data that are reckoned with for one row of a batch when examples are packed."""

MOST_OF_ALL = 0.5
"""Share of all rows in one group above which the mixture is poor."""


def _locate(opened: OpenedSource, places: Sequence[int], index: int) -> str:
    return opened.source.locate(places[index])


class StreamLoader:
    """A BatchSource over sources of any size; its "epochs" are segments of a pass.

    Args:
        sources: at least one.
        encoding: how rows become tokens.
        batch_size, seq_len, packing, shuffle, seed, pad_id: as in `Loader`; packing and sorting by length happen
            inside a segment.
        grad_accum: batches of a step.
        reporter: hears once that rows are refused, and why.
        segment_rows: for tests; default: see `SEGMENT_ROWS`.
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
        grad_accum: int = 1,
        segment_rows: int | None = None,
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
        wanted = segment_rows or self._rows_of_segment(sources, batch_size * grad_accum)
        self.segments_per_pass = max(1, len(first) * first.run_rows // wanted)
        self._say_how_well_it_mixes()

    def _rows_of_segment(self, sources: Sequence[OpenedSource], rows_per_step: int) -> int:
        packed = ROWS_PER_PACKED_ROW if self.packing else 1
        rows = max(SEGMENT_ROWS, STEPS_PER_SEGMENT * rows_per_step * packed)
        n_bytes = sum(one.source.n_bytes for one in sources) / max(1, sum(self._group_rows))
        return max(STEPS_PER_SEGMENT * rows_per_step, min(rows, int(SEGMENT_BYTES / max(1.0, n_bytes))))

    def _say_how_well_it_mixes(self) -> None:
        largest = max(range(len(self._places)), key=self._group_rows.__getitem__)
        share = self._group_rows[largest] / sum(self._group_rows)
        if self.shuffle and share > MOST_OF_ALL and self.segments_per_pass > 1:
            name = self._readers[self._places[largest][0]].opened.source.name
            self._say(
                [
                    f"{name}: {share:.0%} of the rows lie in one row group, which is read in its order: rows are only"
                    " mixed with those near them; write the data in smaller row groups, or shuffle them before"
                ]
            )

    def batches_per_epoch(self, epoch: int) -> int:
        """Batches of segment `epoch`; known once its rows are tokenized."""
        return self._segment(epoch).batches_per_epoch(epoch)

    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of segment `epoch`, both counted from 0."""
        return replace(self._segment(epoch).batch(epoch, index), places=None)

    def shapes(self, epoch: int) -> Int64Array:
        """Rows and width of every batch of segment `epoch`, int64 [batches, 2]."""
        return self._segment(epoch).shapes(epoch)

    def epochs_done(self, epoch: int, batches: int) -> float:
        """Passes over the data after `batches` batches of segment `epoch`."""
        return (epoch + batches / self.batches_per_epoch(epoch)) / self.segments_per_pass

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
        examples = self._examples(segment)
        for ahead in range(1, self.segments_per_pass):
            if len(examples):
                break
            self._say([f"{self._names()}: a segment of the data has nothing to learn; the next one is read instead"])
            pass_index, place = divmod(segment, self.segments_per_pass)
            following = pass_index * self.segments_per_pass + (place + ahead) % self.segments_per_pass
            examples = self._examples(following)
        if len(examples) == 0:
            raise DataError(
                f"there is nothing to learn from: all rows are refused ({reasons(examples.stats)})",
                where=self._names(),
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
            group_by_length=self.shuffle,
        )

    def _examples(self, segment: int) -> Examples:
        """The rows of a segment, tokenized source by source."""
        builder = ExampleBuilder(self.encoding.fmt.seq_len, self.encoding.fmt.overlong)
        for source, gathered in enumerate(self._read(segment)):
            encoder, opened = self._encoders[source], self._readers[source].opened
            for rows, places in gathered.parts():
                builder.add(encoder.encode(rows, partial(_locate, opened, places)), encoder.default_overlong)
            self._say([notice_of(opened.source.name, message) for message in encoder.notices])
        examples = builder.finish()
        self._say_what_was_refused(examples.stats.refused)
        return examples

    def _read(self, segment: int) -> list[Gathered]:
        """The rows of a segment, source by source."""
        gathered = [Gathered() for _ in self._readers]
        pass_index, place = divmod(segment, self.segments_per_pass)
        plan = self._pass(pass_index)
        begin, end = (len(plan) * part // self.segments_per_pass for part in (place, place + 1))
        for visit in range(begin, end):
            source, group = self._places[int(plan.groups[visit])]
            reader, start = self._readers[source], int(plan.runs[visit]) * plan.run_rows
            for batch, first_row in reader.rows(group, start, plan.run_rows):
                gathered[source].add(reader.opened.rows_of(batch, first_row), first_row, batch)
        return gathered

    def _names(self) -> str:
        return ", ".join(reader.opened.source.name for reader in self._readers)

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

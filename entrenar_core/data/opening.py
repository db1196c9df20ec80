"""From the `data` section to opened sources: files found, column types inferred, the task and its columns chosen.

Nothing is tokenized here, and only a sample of each source is read, so a mistake is found within a second.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from entrenar_core.config.data import Data, Source
from entrenar_core.config.roles import TASK_ROLES
from entrenar_core.data.column_types import ColumnType, infer_types, is_decodable
from entrenar_core.data.labels import Where
from entrenar_core.data.row_encoders import Locate, Rows, usable
from entrenar_core.data.source import DataSource, values_of
from entrenar_core.data.task_columns import TARGET_ROLES
from entrenar_core.data.tasks import Task, TaskColumns, TaskRequest, choose_task
from entrenar_core.errors import DataError

SAMPLE_ROWS = 20_000
"""Rows from which types are inferred; a data set that has no more is looked at as a whole."""

ENCODED_BYTES = 2 << 20
"""Text that is tokenized at a time: a token takes a hundred bytes until it lies in an array."""

HEAD_TASKS = frozenset(TARGET_ROLES)
"""Tasks that train a head; all others train the language model itself, and may be mixed."""


@dataclass(frozen=True)
class OpenedSource:
    """One entry of data.train or data.val. `types` are those of all columns, used or not; `origin` says in words where
    task and columns come from."""

    source: DataSource
    columns: TaskColumns
    types: Mapping[str, ColumnType]
    weight: float = 1.0
    origin: str = ""

    @property
    def task(self) -> Task:
        return self.columns.task

    @property
    def unused(self) -> list[str]:
        """Columns that are not read."""
        return [name for name in self.types if name not in self.columns.names]

    @property
    def optional(self) -> list[str]:
        """Columns that a file may lack: they are empty there."""
        return [name for role, name in self.columns.columns.items() if role in TASK_ROLES[self.task].optional]

    def read(self) -> Iterator[tuple[Rows, Locate]]:
        """All rows in order, by role, a batch at a time, each with a way to name its rows."""
        first_row = 0
        for batch in self.source.read(self.columns.names, self.optional):
            for piece in pieces_of(batch):
                yield self.rows_of(piece, first_row), self.locate_from(first_row)
                first_row += piece.num_rows

    def rows_of(self, batch: pa.RecordBatch, first_row: int) -> Rows:
        """The values of a batch by role; `first_row` is its place in the source, counted from 0."""
        return {role: values_of(batch, name, first_row, self.source) for role, name in self.columns.columns.items()}

    def locate_from(self, first_row: int) -> Locate:
        """Names the rows of a batch that begins at `first_row` of the source."""
        return lambda index: self.source.locate(first_row + index)

    def values(self, role: str) -> Iterator[Any]:
        """The values of one role over all rows."""
        name, first_row = self.columns.columns[role], 0
        for batch in self.source.read([name], self.optional):
            yield from values_of(batch, name, first_row, self.source)
            first_row += batch.num_rows

    def labels(self) -> Iterator[tuple[Any, Where]]:
        """The label or target of every row that is not refused, with its place."""
        role = TARGET_ROLES[self.task]
        for rows, locate in self.read():
            for index, reason in enumerate(usable(rows, ["text", role])):
                if reason is None:
                    yield rows[role][index], partial(_cell, locate, index, self.columns.columns[role])


def _cell(locate: Locate, index: int, column: str) -> str:
    return f"{locate(index)}, column {column}"


def pieces_of(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The rows of a batch, as many at a time as have about `ENCODED_BYTES` together."""
    count = max(1, batch.num_rows * ENCODED_BYTES // max(1, batch.nbytes))
    for start in range(0, batch.num_rows, count):
        yield batch.slice(start, count)


def open_sources(
    data: Data, entries: Sequence[Source], *, like: Sequence[OpenedSource] = ()
) -> tuple[OpenedSource, ...]:
    """Open the sources of data.train or data.val.

    Args:
        data: what holds for all of them.
        entries: data.train or data.val.
        like: the training data: validation data that have the same columns are read in the same way.

    Raises:
        DataError: a source cannot be read, its columns do not tell what to do, or the tasks cannot be mixed.
    """
    opened = tuple(_open(data, entry, like) for entry in entries)
    _check_mix((*like, *opened))
    return opened


def _open(data: Data, entry: Source, like: Sequence[OpenedSource]) -> OpenedSource:
    source = DataSource.open(entry.path)
    sample = source.sample(SAMPLE_ROWS)
    types = infer_types(sample)
    request, origin = request_of(data, entry), "as the config says"
    if request.task is None and not request.columns:
        twin = next((one for one in like if set(one.columns.names) <= types.keys()), None)
        origin = "inferred from its columns" if twin is None else "like the training data"
        request = request if twin is None else TaskRequest(str(twin.task), twin.columns.columns)
    opened = OpenedSource(source, choose_task(types, request, where=entry.path), types, entry.weight, origin)
    _check_columns(opened, sample)
    return opened


def _check_columns(opened: OpenedSource, sample: pa.Table) -> None:
    """Every file must have the columns that are used, and their strings must be UTF-8 as far as the sample goes."""
    opened.source.require(opened.columns.names, opened.optional)
    for role, name in opened.columns.columns.items():
        if not is_decodable(sample.column(name)):
            deque(opened.values(role), maxlen=0)  # reading it raises the error, which names the row


def request_of(data: Data, entry: Source) -> TaskRequest:
    """What the YAML says about task and columns of one source; its own keys come before those of the section."""
    return TaskRequest(task=data.task_of(entry), columns=data.columns_of(entry), auto_infer_types=data.auto_infer_types)


def _check_mix(opened: Sequence[OpenedSource]) -> None:
    tasks = {one.task for one in opened}
    if len(tasks) > 1 and tasks & HEAD_TASKS:
        listed = "; ".join(f"{one.source.name}: {one.task}" for one in opened)
        raise DataError(
            f"these sources cannot go together: {listed}",
            where="data",
            hint="a classification or regression head takes one task; set data.task, or give each task its own run",
        )

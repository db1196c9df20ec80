"""Data in, data with predictions out: windows of rows with their texts, and a parquet file with columns added.

The rows keep their order and their columns; what a head says of a row is null where the row has no text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from entrenar_core.data.row_encoders import is_missing
from entrenar_core.data.source import DataSource, values_of
from entrenar_core.errors import DataError, OutputError
from entrenar_core.gguf.atomic import atomic_file

WINDOW_ROWS = 1024
"""Rows that are predicted together: enough to sort texts of like length into batches."""

GROUP_ROWS = 1 << 16
"""Rows of a row group that is written."""

GROUP_BYTES = 64 << 20
"""A row group ends early where its rows take more memory than this."""


@dataclass(frozen=True)
class Window:
    """Consecutive rows.

    kept: the columns that go into the output. texts: what is read, None where a row has nothing. targets: the true
    labels or numbers as the data have them; None altogether if they have no such column.
    """

    kept: pa.Table
    texts: list[str | None]
    targets: list[Any] | None


@dataclass(frozen=True)
class PredictionInput:
    """Data to predict on. `target_column` is None if the data lack it."""

    source: DataSource
    text_column: str
    target_column: str | None
    kept: tuple[str, ...]

    @classmethod
    def open(
        cls, path: str, *, text: str, target: str, kept: Sequence[str] | None, added: Sequence[str]
    ) -> PredictionInput:
        """Open a file, a folder or a glob.

        Args:
            text: the column that is read.
            target: the column of the truth, which the data need not have.
            kept: columns that the output keeps; None: all of them.
            added: columns that the output gets besides.

        Raises:
            DataError: the data cannot be read, a column is missing or no text, or one that is kept has the name of one
                that is added.
        """
        source = DataSource.open(path)
        _require_text(source, text)
        names = tuple(source.schema.names) if kept is None else tuple(dict.fromkeys(kept))
        source.require(names, optional=names)
        if clash := [name for name in names if name in added]:
            raise DataError(
                f"the data have a column {clash[0]!r} already, and a prediction would have that name",
                where=path,
                hint="name the columns to keep with --columns",
            )
        return cls(source, text, target if target in source.schema.names else None, names)

    @property
    def schema(self) -> pa.Schema:
        """Of the columns that are kept."""
        return pa.schema([self.source.schema.field(name).with_nullable(True) for name in self.kept])

    def windows(self) -> Iterator[Window]:
        """All rows in order.

        Raises:
            DataError: what is read is damaged.
        """
        roles = [self.text_column] + ([] if self.target_column is None else [self.target_column])
        columns = list(dict.fromkeys([*self.kept, *roles]))
        optional = [name for name in columns if name != self.text_column]
        first_row, batches = 0, list[pa.RecordBatch]()
        for batch in self.source.read(columns, optional):
            batches.append(batch)
            n_rows = sum(one.num_rows for one in batches)
            if n_rows >= WINDOW_ROWS:
                yield self._window(batches, first_row)
                first_row, batches = first_row + n_rows, []
        if batches:
            yield self._window(batches, first_row)

    def _window(self, batches: Sequence[pa.RecordBatch], first_row: int) -> Window:
        schema = self.schema
        kept = pa.Table.from_batches(
            [pa.RecordBatch.from_arrays([batch.column(name) for name in self.kept], schema=schema) for batch in batches]
            if self.kept
            else [batch.select([]) for batch in batches]
        )
        texts: list[str | None] = []
        targets: list[Any] | None = None if self.target_column is None else []
        for batch in batches:
            texts += map(_said, values_of(batch, self.text_column, first_row, self.source))
            if targets is not None and self.target_column is not None:
                targets += values_of(batch, self.target_column, first_row, self.source)
            first_row += batch.num_rows
        return Window(kept, texts, targets)


def _said(text: str | None) -> str | None:
    return None if is_missing(text) else text


def _require_text(source: DataSource, name: str) -> None:
    try:
        source.require([name])
    except DataError as error:
        raise DataError(error.message, where=error.where, hint=f"{error.hint}; name the text with --text") from error
    found = source.schema.field(name).type
    inner = found.value_type if pa.types.is_dictionary(found) else found
    if not (pa.types.is_string(inner) or pa.types.is_large_string(inner) or pa.types.is_null(inner)):
        raise DataError(
            f"the column {name!r} holds {found}, not text", where=source.name, hint="name the text column with --text"
        )


class PredictionWriter:
    """Writes rows with predictions to `file` as parquet. `fields` are the columns that are added, ``string`` or number.

    Raises:
        OutputError: parquet has no form for one of the columns.
    """

    def __init__(self, file: BinaryIO, kept: pa.Schema, fields: Mapping[str, type], where: str) -> None:
        types = {str: pa.string(), float: pa.float64()}
        self._added = pa.schema([pa.field(name, types[kind]) for name, kind in fields.items()])
        self._where = where
        self._pending: list[pa.Table] = []
        with _storable(where):
            self._writer = pq.ParquetWriter(file, pa.schema([*kept, *self._added]), compression="zstd")

    def add(self, kept: pa.Table, answered: npt.NDArray[np.bool_], columns: Mapping[str, npt.NDArray[Any]]) -> None:
        """Append rows: the columns that are kept, and those that are added, null where `answered` [n] is False."""
        arrays = [pa.array(columns[field.name], field.type, mask=~answered) for field in self._added]
        added = pa.Table.from_arrays(arrays, schema=self._added)
        for field in kept.schema:
            added = added.append_column(field, kept.column(field.name))
        self._pending.append(added.select([*kept.schema.names, *self._added.names]))
        rows, size = (sum(getattr(one, what) for one in self._pending) for what in ("num_rows", "nbytes"))
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Let go of a file that will not be kept, so that nothing is written to it later."""
        with suppress(OSError, ValueError, pa.ArrowException):
            self._writer.close()
        self._writer.is_open = False

    def _flush(self) -> None:
        if self._pending:
            with _storable(self._where):
                self._writer.write_table(pa.concat_tables(self._pending))
            self._pending = []


@contextmanager
def _storable(where: str) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise OutputError(
            f"a column cannot be stored as parquet: {error}",
            where=where,
            hint="name the columns to keep with --columns",
        ) from error


@contextmanager
def prediction_writer(path: Path, kept: pa.Schema, fields: Mapping[str, type]) -> Iterator[PredictionWriter]:
    """A writer whose file takes its name when the block ends without an error.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_file(path) as file:
        writer = PredictionWriter(file, kept, fields, str(path))
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.abandon()
            raise

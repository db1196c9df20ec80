"""Data files behind one door: parquet, JSON lines, JSON arrays, CSV, TSV and Arrow, as a file, a folder or a glob.

`DataSource.open` finds the files, reads what is needed for one schema and the row counts, and explains everything that
is wrong with them. Rows are then streamed, by column and a thousand at a time, in order or from any row group on, so
that memory does not grow with the files. Rows are counted from 0 in arguments and from 1, within their file, in
messages.

The scanner of pyarrow.dataset is not used: it decodes whole row groups, and takes the columns of JSON and CSV from the
first megabyte, so that a key or a type that comes later is lost or breaks the scan.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import pyarrow as pa

from entrenar_core.data.broken import explained
from entrenar_core.data.files import find_files
from entrenar_core.data.formats.base import READ_ROWS, DataFile, in_type, pieces
from entrenar_core.data.formats.kinds import Format
from entrenar_core.data.formats.registry import open_file
from entrenar_core.data.sample import SAMPLE_BYTES, sample_of
from entrenar_core.data.schemas import Disagreement, unify_schemas, unify_types
from entrenar_core.errors import DataError

__all__ = ["READ_ROWS", "DataSource", "RowGroup", "values_of"]

MAX_LISTED = 20
"""Columns that an error shows."""


@dataclass(frozen=True)
class RowGroup:
    """Rows that can be read without those before them: a row group of parquet, a block of JSON lines, a record batch.

    `file` and `index` say which, `first_row` is the place of its first row in the source. Formats that are read from
    their start (CSV, JSON arrays, Arrow streams, compressed files) have one group per file.
    """

    file: Path
    index: int
    n_rows: int
    first_row: int


@dataclass(frozen=True)
class DataSource:
    """Opened files of one format with at least one row.

    `name` is the path as it was given. `schema` has the columns of all files, in order of appearance, in types that
    hold the values of all; `disagreements` are the columns that some files lack or have in another type.
    """

    name: str
    format: Format
    opened: tuple[DataFile, ...]
    schema: pa.Schema
    disagreements: Mapping[str, Disagreement]

    @classmethod
    def open(cls, path: str) -> DataSource:
        """Open a file, a folder or a glob.

        Raises:
            DataError: nothing is there, or what is there is not data, is broken, or has no rows.
        """
        found = find_files(path)
        opened = tuple(open_file(file, found.format) for file in found.files)
        filled = [file for file in opened if any(part.n_rows for part in file.parts)]
        if not filled:
            what = "the file has no rows" if len(opened) == 1 else f"all {len(opened)} files have no rows"
            raise DataError(what, where=path, hint="check what wrote them, or whether the download was complete")
        schema, disagreements = unify_schemas([(str(file.path), file.schema) for file in filled])
        return cls(path, found.format, opened, schema, disagreements)

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, in order; an output must not have the path of one of them."""
        return tuple(file.path for file in self.opened)

    @property
    def n_rows(self) -> int:
        return sum(part.n_rows for file in self.opened for part in file.parts)

    @property
    def n_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.path.stat().st_size for file in self.opened)

    def groups(self) -> list[RowGroup]:
        """Every row group with rows, in order."""
        parts = [(file, index, part) for file in self.opened for index, part in enumerate(file.parts)]
        starts = accumulate((part.n_rows for *_, part in parts), initial=0)
        return [
            RowGroup(file.path, index, part.n_rows, start)
            for (file, index, part), start in zip(parts, starts, strict=False)
            if part.n_rows
        ]

    def read(self, columns: Sequence[str], optional: Collection[str] = ()) -> Iterator[pa.RecordBatch]:
        """Stream all rows in order, at most READ_ROWS at a time.

        Args:
            columns: those to read, in the order of the batches.
            optional: those of them that are null in files that lack them; elsewhere that is an error.

        Raises:
            DataError: a column is missing, or what is read is damaged.
        """
        fields = self._fields(columns, optional)
        for file in self.opened:
            for part in range(len(file.parts)):
                yield from _read_part(file, part, fields)

    def read_group(
        self, group: RowGroup, columns: Sequence[str], skip_rows: int = 0, optional: Collection[str] = ()
    ) -> Iterator[pa.RecordBatch]:
        """`read` for one group, without its first `skip_rows` rows. Closing the iterator closes the file."""
        fields = self._fields(columns, optional)
        file = next(file for file in self.opened if file.path == group.file)
        yield from pieces(_read_part(file, group.index, fields), skip_rows)

    def sample(self, max_rows: int, max_bytes: int = SAMPLE_BYTES) -> pa.Table:
        """Rows from all over the source, in order, with all columns: the same ones each time.

        A value that has another type in its file than in `schema`, or does not fit into that, is null here and an
        error in `read`.

        Args:
            max_bytes: about the memory that the sample may take; large rows make it shorter.
        """
        return sample_of(self.opened, self.schema, max_rows, max_bytes, _read_sample)

    def require(self, columns: Iterable[str], optional: Collection[str] = ()) -> None:
        """Check that every file has the columns.

        Raises:
            DataError: with a did-you-mean, or with the file that lacks the column or has another type.
        """
        for name in columns:
            if name not in self.schema.names:
                raise DataError(f"there is no column {name!r}", where=self.name, hint=self._nearest(name))
            found = self.disagreements.get(name)
            if found is not None and not (found.is_absence and name in optional):
                raise DataError(found.message, where=found.where, hint=found.hint)

    def locate(self, row: int) -> str:
        """The file and the row, counted from 1 in it, of a row of the source, counted from 0."""
        ends = self._ends
        index = bisect_right(ends, row)
        first = ends[index - 1] if index else 0
        return f"{self.opened[index].path}, row {row - first + 1}"

    @cached_property
    def _ends(self) -> list[int]:
        """For each file the number of rows up to its end."""
        return list(accumulate(sum(part.n_rows for part in file.parts) for file in self.opened))

    def fingerprint(self) -> str:
        """SHA-256 over the content of all files in order; it does not depend on their names or place.

        Raises:
            DataError: a file cannot be read any more.
        """
        total = hashlib.sha256()
        for path in self.files:
            with explained(path, self.format), path.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        return total.hexdigest()

    def _fields(self, columns: Sequence[str], optional: Collection[str]) -> pa.Schema:
        self.require(columns, optional)
        return pa.schema([self.schema.field(name) for name in columns])

    def _nearest(self, name: str) -> str:
        by_lower = {found.lower(): found for found in self.schema.names}
        close = get_close_matches(name.lower(), list(by_lower), n=1)
        hint = f"did you mean {by_lower[close[0]]!r}? " if close else ""
        shown = [f"{field.name} ({field.type})" for field in self.schema]
        more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
        return f"{hint}columns: {', '.join(shown[:MAX_LISTED])}{more}"


def _read_part(file: DataFile, part: int, fields: pa.Schema, is_sample: bool = False) -> Iterator[pa.RecordBatch]:
    """The columns of a part; null where the file has no such column, or one of a type that does not fit.

    A file is read in its own types, so that a value which is lost in those of all files can be told from damage.
    """
    own = pa.schema([file.schema.field(field.name) for field in fields if _has(file.schema, field)])
    if not len(own):
        n_rows = file.parts[part].n_rows
        for start in range(0, n_rows, READ_ROWS):
            count = min(READ_ROWS, n_rows - start)
            yield pa.RecordBatch.from_arrays([pa.nulls(count, field.type) for field in fields], schema=fields)
        return
    for batch in file.read(part, own):
        columns = [_column(file, batch, field, is_sample) for field in fields]
        yield pa.RecordBatch.from_arrays(columns, schema=fields)


def _read_sample(file: DataFile, part: int, fields: pa.Schema) -> Iterator[pa.RecordBatch]:
    return _read_part(file, part, fields, is_sample=True)


def _has(schema: pa.Schema, field: pa.Field) -> bool:
    index = schema.get_field_index(field.name)
    return index >= 0 and unify_types(schema.field(index).type, field.type) is not None


def _column(file: DataFile, batch: pa.RecordBatch, field: pa.Field, is_sample: bool) -> pa.Array:
    """A column in the type of all files; a sample has nulls where values do not fit.

    Raises:
        DataError: a value does not fit, and this is no sample.
    """
    if field.name not in batch.schema.names:
        return pa.nulls(batch.num_rows, field.type)
    values = batch.column(field.name)
    try:
        return in_type(values, field.type)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        if is_sample:
            return pa.nulls(batch.num_rows, field.type)
        raise DataError(
            f"column {field.name!r} is {values.type} here and {field.type} with the other files, "
            "and a value would not survive the change",
            where=str(file.path),
            hint="write all files with one type, or as text if it is a name or a number of a row",
        ) from error


def values_of(batch: pa.RecordBatch, column: str, first_row: int, source: DataSource) -> list[Any]:
    """The values of a column as Python objects: strings, numbers, lists, dicts, None.

    Args:
        first_row: the place of the batch in the source, for messages.

    Raises:
        DataError: a text is not UTF-8.
    """
    array = batch.column(column)
    try:
        values: list[Any] = array.to_pylist()
    except UnicodeDecodeError as error:
        row = first_row + _first_undecodable(array)
        raise DataError(
            "the text is not UTF-8",
            where=f"{source.locate(row)}, column {column}",
            hint="store the column as UTF-8, or drop the row",
        ) from error
    return values


def _first_undecodable(array: pa.Array) -> int:
    for index, value in enumerate(array):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return index
    return 0

"""Opens a parquet file and streams the rows of the columns that are needed.

The footer is read once, for columns, types and the row count; `read` then walks the row groups and hands out plain
Python strings a thousand rows at a time, so that memory does not grow with the file. Every way in which a file can be
broken ends in one DataError that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from entrenar_core.errors import DataError

READ_ROWS = 1024
"""Rows handed out at a time: enough for the tokenizer's threads, little enough to stay small."""

_MAGIC = (b"PAR1", b"PARE")


@dataclass(frozen=True)
class Column:
    """A column as the file declares it. `type_name` is Arrow's name; `is_text`: every value is a string or null."""

    name: str
    type_name: str
    is_text: bool


@dataclass(frozen=True)
class ParquetSource:
    """An opened parquet file: its columns in file order and its number of rows (at least 1)."""

    path: Path
    n_rows: int
    columns: Mapping[str, Column]

    @classmethod
    def open(cls, path: Path) -> ParquetSource:
        """Read the footer of `path`.

        Raises:
            DataError: the file is missing, a folder, empty, not parquet, truncated, broken, or has no rows.
        """
        _check_is_parquet(path)
        try:
            with pq.ParquetFile(path) as file:
                schema, n_rows = file.schema_arrow, file.metadata.num_rows
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        if n_rows == 0:
            raise DataError("the file has no rows", where=str(path))
        columns = {field.name: _column(field) for field in schema}
        if len(columns) < len(schema):
            raise DataError("two columns have the same name", where=str(path), hint="rename one of them")
        return cls(path, n_rows, columns)

    def read(self, names: Sequence[str]) -> Iterator[tuple[list[str | None], ...]]:
        """Stream text columns, row group by row group: tuples with one list of values for each of `names`.

        Raises:
            DataError: a page is damaged, or a value is not UTF-8 (with its column and row, counted from 1).
        """
        first_row = 1
        batches = self._record_batches(names)
        for batch in batches:
            yield tuple(self._strings(batch.column(name), name, first_row) for name in names)
            first_row += batch.num_rows

    def _record_batches(self, names: Sequence[str]) -> Iterator[Any]:
        try:
            with pq.ParquetFile(self.path, page_checksum_verification=True) as file:
                yield from file.iter_batches(batch_size=READ_ROWS, columns=list(names))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _unreadable(self.path, error) from error

    def _strings(self, values: Any, name: str, first_row: int) -> list[str | None]:
        try:
            strings: list[str | None] = values.to_pylist()
        except UnicodeDecodeError as error:
            row = first_row + _first_undecodable(values)
            raise DataError("the text is not UTF-8", where=f"{self.path}: column {name}, row {row}") from error
        return strings


def _check_is_parquet(path: Path) -> None:
    """Tell apart, before Arrow's own error, what people do wrong."""
    where = str(path)
    try:
        if path.is_dir():
            raise DataError("this is a folder, not a parquet file", where=where, hint="name one .parquet file in it")
        if not path.exists():
            raise DataError("the file does not exist", where=where, hint=_neighbour(path))
        with path.open("rb") as file:
            head = file.read(4)
            size = file.seek(0, 2)
            file.seek(max(0, size - 4))
            tail = file.read(4)
    except OSError as error:
        raise _unreadable(path, error) from error
    if size == 0:
        raise DataError("the file is empty (0 bytes)", where=where)
    if head not in _MAGIC:
        raise DataError(f"this is not a parquet file (it begins with {head!r}, not b'PAR1')", where=where)
    if tail not in _MAGIC or size < len(b"PAR1" * 3):
        raise DataError(
            "the parquet file is truncated: its footer is missing", where=where, hint="copy or download it again"
        )


def _neighbour(path: Path) -> str | None:
    """A did-you-mean for a file name, from the parquet files of its folder."""
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    names = sorted(found.name for found in path.parent.glob("*.parquet"))
    close = get_close_matches(path.name, names, n=1)
    return f"did you mean {path.parent / close[0]}?" if close else None


def _unreadable(path: Path, error: Exception) -> DataError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    hint = "check its permissions" if isinstance(error, PermissionError) else "copy or download it again"
    return DataError(f"the parquet file cannot be read: {reason}", where=str(path), hint=hint)


def _column(field: Any) -> Column:
    value_type = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    is_text = any(
        check(value_type) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    )
    return Column(field.name, str(field.type), bool(is_text))


def _first_undecodable(values: Any) -> int:
    for index, value in enumerate(values):
        try:
            value.as_py()
        except UnicodeDecodeError:
            return index
    return 0

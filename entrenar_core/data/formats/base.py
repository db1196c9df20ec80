"""What every format offers: a file opened once, whose rows are then streamed part by part, column by column.

A part is what can be read without reading what comes before it: a row group of parquet, a block of JSON lines, a
record batch of Arrow; a format that can only be read from its start has one part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

READ_ROWS = 1024
"""Rows handed out at a time: enough for the tokenizer's threads, little enough to stay small."""


READ_BYTES = 8 << 20
"""Rows that are larger than usual are handed out fewer at a time, so that a batch has about these bytes at most."""


def rows_at_once(part: Part) -> int:
    """How many rows of a part are decoded at a time."""
    mean = part.n_bytes / max(1, part.n_rows)
    return max(1, min(READ_ROWS, int(READ_BYTES / max(1.0, mean))))


@dataclass(frozen=True)
class Part:
    """`n_bytes`: about what it takes to read the part, so that a sample knows what is cheap."""

    n_rows: int
    n_bytes: int


class DataFile(Protocol):
    """An opened file. Opening reads what is needed for the schema and the row counts, and keeps no file open."""

    @property
    def path(self) -> Path: ...

    @property
    def schema(self) -> pa.Schema: ...

    @property
    def parts(self) -> Sequence[Part]: ...

    def read(self, part: int, fields: pa.Schema) -> Iterator[pa.RecordBatch]:
        """Stream the columns `fields` of one part, in their types, in batches of at most READ_ROWS rows.

        Every field is a column of the file, of a type that unify_types made from its own. The file is open while the
        iterator lives.

        Raises:
            DataError: what is read is damaged.
        """
        ...


def pieces(batches: Iterable[pa.RecordBatch], skip_rows: int = 0) -> Iterator[pa.RecordBatch]:
    """The same rows without the first `skip_rows`, at most READ_ROWS at a time."""
    for batch in batches:
        skipped = min(skip_rows, batch.num_rows)
        skip_rows -= skipped
        for start in range(skipped, batch.num_rows, READ_ROWS):
            yield batch.slice(start, READ_ROWS)


def conformed(batch: pa.RecordBatch, fields: pa.Schema) -> pa.RecordBatch:
    """The columns `fields` of a batch, in their order and types; `batch` may hold more."""
    columns = [in_type(batch.column(field.name), field.type) for field in fields]
    return pa.RecordBatch.from_arrays(columns, schema=fields) if columns else batch.select([])


def in_type(values: pa.Array, type_: pa.DataType) -> pa.Array:
    """The values in another type, which unify_types or plain_type made from theirs.

    Raises:
        pa.ArrowInvalid, ValueError, OverflowError: a value does not fit.
    """
    if values.type.equals(type_):
        return values
    if pa.types.is_dictionary(values.type):
        return in_type(values.dictionary, type_).take(values.indices)
    # Arrow casts these views to lists that are not valid
    if not _holds_list_view(values.type):
        with suppress(pa.ArrowNotImplementedError, pa.ArrowTypeError):
            return values.cast(type_)
    return pa.array(values.to_pylist(), type_)


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """The schema without views, for which Arrow lacks half of its functions; Polars writes strings as views."""
    return pa.schema([field.with_type(plain_type(field.type)) for field in schema], metadata=schema.metadata)


def plain_type(type_: pa.DataType) -> pa.DataType:
    """The type with the same values that is no view and holds none."""
    if pa.types.is_dictionary(type_):
        value_type = plain_type(type_.value_type)
        return type_ if value_type.equals(type_.value_type) else value_type
    for family, plain in _PLAIN:
        if family(type_):
            return plain(type_)
    return type_


def _plain_field(field: pa.Field) -> pa.Field:
    return field.with_type(plain_type(field.type))


_PLAIN: tuple[tuple[Callable[[pa.DataType], bool], Callable[[Any], pa.DataType]], ...] = (
    (pa.types.is_string_view, lambda _type: pa.string()),
    (pa.types.is_binary_view, lambda _type: pa.binary()),
    (pa.types.is_run_end_encoded, lambda type_: plain_type(type_.value_type)),
    (pa.types.is_list_view, lambda type_: pa.list_(_plain_field(type_.value_field))),
    (pa.types.is_large_list_view, lambda type_: pa.large_list(_plain_field(type_.value_field))),
    (pa.types.is_list, lambda type_: pa.list_(_plain_field(type_.value_field))),
    (pa.types.is_large_list, lambda type_: pa.large_list(_plain_field(type_.value_field))),
    (pa.types.is_fixed_size_list, lambda type_: pa.list_(_plain_field(type_.value_field), type_.list_size)),
    (pa.types.is_struct, lambda type_: pa.struct([_plain_field(field) for field in type_])),
    (pa.types.is_map, lambda type_: pa.map_(_plain_field(type_.key_field), _plain_field(type_.item_field))),
)


def _holds_list_view(type_: pa.DataType) -> bool:
    is_view = pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_)
    inner = [type_.field(index).type for index in range(type_.num_fields)]
    return is_view or any(_holds_list_view(one) for one in inner)

"""What every format offers: a file opened once, whose rows are then streamed part by part, column by column.

A part is what can be read without reading what comes before it: a row group of parquet, a block of JSON lines, a
record batch of Arrow; a format that can only be read from its start has one part.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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
    columns = [_conformed(batch.column(field.name), field.type) for field in fields]
    return pa.RecordBatch.from_arrays(columns, schema=fields) if columns else batch.select([])


def _conformed(values: pa.Array, type_: pa.DataType) -> pa.Array:
    if values.type.equals(type_):
        return values
    if pa.types.is_nested(type_):  # Arrow's cast does not add the fields that a struct of another file has
        return pa.array(values.to_pylist(), type_)
    return values.cast(type_)

"""Parquet: the footer tells columns, types and row groups; pages are decoded as rows are asked for.

`ParquetFile.iter_batches` through a buffered stream holds a few pages of each column that is read. pyarrow.dataset
would decode whole row groups, and without the buffer the compressed column of the whole row group would be in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from entrenar_core.data.broken import explained
from entrenar_core.data.formats.base import Part, conformed, plain_schema, rows_at_once
from entrenar_core.data.formats.kinds import Format
from entrenar_core.errors import DataError

BUFFER_BYTES = 1 << 20
"""Read ahead of each column."""

_MARK_BYTES = 4
_SMALLEST = 12
"""Two marks and the length of the footer."""


class ParquetFile:
    """An opened parquet file; a part is a row group."""

    def __init__(self, path: Path) -> None:
        """Read the footer.

        Raises:
            DataError: the file is truncated, or its footer is broken.
        """
        self.path = path
        with explained(path, Format.PARQUET):
            _check_tail(path)
            with pq.ParquetFile(path) as file:
                self._metadata = file.metadata
                self.schema: pa.Schema = plain_schema(file.schema_arrow)
            groups = [self._metadata.row_group(index) for index in range(self._metadata.num_row_groups)]
        self.parts = [Part(group.num_rows, group.total_byte_size) for group in groups]

    def read(self, part: int, fields: pa.Schema) -> Iterator[pa.RecordBatch]:
        with (
            explained(self.path, Format.PARQUET),
            pq.ParquetFile(
                self.path,
                metadata=self._metadata,
                buffer_size=BUFFER_BYTES,
                pre_buffer=False,
                page_checksum_verification=True,
            ) as file,
        ):
            # A name also selects the fields of a struct that has its first part as a name; `conformed` drops them.
            for batch in file.iter_batches(
                batch_size=rows_at_once(self.parts[part]), row_groups=[part], columns=fields.names
            ):
                yield conformed(batch, fields)


def _check_tail(path: Path) -> None:
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _MARK_BYTES))
        tail = file.read()
    if tail not in (b"PAR1", b"PARE") or size < _SMALLEST:
        raise DataError(
            "the parquet file is truncated: its footer is missing", where=str(path), hint="copy or download it again"
        )
    if tail == b"PARE":
        raise DataError("the parquet file is encrypted", where=str(path), hint="decrypt it first")

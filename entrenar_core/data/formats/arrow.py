"""Arrow IPC files, Feather version 2 (the same) and Arrow streams, which is what Hugging Face's cache holds.

A file is read by record batch, and only the buffers of the columns asked for; a stream has to be read from its start.
Files are read, not mapped: a mapped file that is cut while it is read would kill the process.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from pyarrow import ipc

from entrenar_core.data.broken import explained
from entrenar_core.data.formats.base import Part, conformed, pieces, plain_schema
from entrenar_core.data.formats.kinds import Format
from entrenar_core.errors import DataError

_FILE_MARK = b"ARROW1"


class ArrowFile:
    """An opened IPC file; a part is a record batch of a file, or the whole of a stream."""

    def __init__(self, path: Path) -> None:
        """Read schema and row counts.

        Raises:
            DataError: the file is truncated or broken.
        """
        self.path = path
        with explained(path, Format.ARROW):
            with path.open("rb") as file:
                self._is_stream = file.read(len(_FILE_MARK)) != _FILE_MARK
            size = path.stat().st_size
            with pa.OSFile(str(path)) as source:
                _check_tail(path, size, self._is_stream)
                if self._is_stream:
                    reader = ipc.open_stream(source)
                    self.schema: pa.Schema = plain_schema(reader.schema)
                    self.parts = [Part(sum(batch.num_rows for batch in reader), size)]
                else:
                    self.schema = plain_schema(ipc.open_file(source).schema)
                    self.parts = _count_rows(source, self.schema, size)

    def read(self, part: int, fields: pa.Schema) -> Iterator[pa.RecordBatch]:
        with explained(self.path, Format.ARROW), pa.OSFile(str(self.path)) as source:
            options = ipc.IpcReadOptions(included_fields=sorted(map(self.schema.get_field_index, fields.names)))
            if self._is_stream:
                batches: Iterator[pa.RecordBatch] = iter(ipc.open_stream(source, options=options))
            else:
                batches = iter([ipc.open_file(source, options=options).get_batch(part)])
            for batch in pieces(map(_checked, batches)):
                yield conformed(batch, fields)


def _check_tail(path: Path, size: int, is_stream: bool) -> None:
    with path.open("rb") as file:
        file.seek(max(0, size - len(_FILE_MARK)))
        if not is_stream and file.read() != _FILE_MARK:
            raise DataError(
                "the Arrow file is truncated: its footer is missing", where=str(path), hint="copy or download it again"
            )


def _checked(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Offsets of a damaged file could point anywhere; text that is not UTF-8 is named later, with its row."""
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid as error:
        if "utf8" not in str(error).lower():
            raise
    return batch


def _count_rows(source: pa.NativeFile, schema: pa.Schema, size: int) -> list[Part]:
    """The rows of each batch; a count comes only with a column, so the cheapest one is read."""
    cheapest = min(range(len(schema)), key=lambda index: _cost(schema.field(index).type), default=0)
    reader = ipc.open_file(source, options=ipc.IpcReadOptions(included_fields=[cheapest] if len(schema) else []))
    n_batches = reader.num_record_batches
    return [Part(reader.get_batch(index).num_rows, size // n_batches) for index in range(n_batches)]


def _cost(type_: pa.DataType) -> int:
    """Bits of a value, where all have the same; others last."""
    return int(type_.bit_width) if pa.types.is_primitive(type_) else 1 << 30

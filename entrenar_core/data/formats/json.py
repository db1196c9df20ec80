"""JSON lines, one object a line, and JSON arrays of objects, both possibly compressed.

The file is parsed once when it is opened, block by block, so that a key or a type that comes late in the file is part
of the schema; only the columns asked for are built when rows are read. A JSON string stays a string: Arrow's guess
that "2024-01-01" is a time is taken back. Lists of objects without one type are JSON text (`json_lists.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from pyarrow import json as arrow_json

from entrenar_core.data.broken import explained
from entrenar_core.data.formats.base import Part, conformed, pieces
from entrenar_core.data.formats.json_blocks import Block, count_lines, is_array, item_blocks, line_blocks
from entrenar_core.data.formats.json_lists import lists_of_several_types, with_lists_as_text
from entrenar_core.data.formats.json_mistakes import explain_block
from entrenar_core.data.formats.kinds import Format, is_compressed
from entrenar_core.data.schemas import unify_types
from entrenar_core.errors import DataError


@dataclass(frozen=True)
class _Place:
    offset: int
    size: int


class JsonFile:
    """An opened JSON file; a part is a block of lines, or the whole of an array or of a compressed file."""

    def __init__(self, path: Path) -> None:
        """Parse the file for its columns and rows.

        Raises:
            DataError: a line is not a JSON object, or a key has values of several types.
        """
        self.path = path
        with explained(path, Format.JSON):
            self._is_array = is_array(path)
            self.schema = pa.schema([])
            self._as_text: set[str] = set()
            n_rows: list[int] = []
            places: list[_Place] = []
            for block in self._blocks():
                n_rows.append(self._learn(block))
                places.append(_Place(block.offset, block.size))
            size = path.stat().st_size
        if self._is_array or is_compressed(path):
            self._places: list[_Place] = []
            self.parts = [Part(sum(n_rows), size)] if n_rows else []
        else:
            self._places = places
            self.parts = [Part(rows, place.size) for rows, place in zip(n_rows, places, strict=True)]

    def read(self, part: int, fields: pa.Schema) -> Iterator[pa.RecordBatch]:
        with explained(self.path, Format.JSON):
            for block in [self._block(part)] if self._places else self._blocks():
                fitting = with_lists_as_text(block, self._as_text & set(fields.names))
                for batch in pieces(self._parse(fitting, fields).to_batches()):
                    yield conformed(batch, fields)

    def _blocks(self) -> Iterator[Block]:
        return item_blocks(self.path) if self._is_array else line_blocks(self.path)

    def _block(self, part: int) -> Block:
        place = self._places[part]
        with self.path.open("rb") as file:
            file.seek(place.offset)
            return Block(file.read(place.size), place.offset, place.size, first=1)

    def _learn(self, block: Block) -> int:
        """Widen the schema by the block's; returns its rows."""
        block = with_lists_as_text(block, self._as_text)
        try:
            return self._widen(block)
        except DataError:
            several = lists_of_several_types(block, self.schema)
            if not several:
                raise
        self._as_text |= several
        known = {field.name: pa.string() if field.name in several else field.type for field in self.schema}
        self.schema = pa.schema(list(known.items()))
        return self._widen(with_lists_as_text(block, several))

    def _widen(self, block: Block) -> int:
        table = self._parse(block, None)
        if table.num_rows != count_lines(block.text):
            raise explain_block(self.path, block, self.schema, self._is_array, "it is not one object")
        types = {field.name: field.type for field in self.schema}
        for field in table.schema:
            wider = unify_types(types.get(field.name, pa.null()), _json_type(field.type))
            if wider is None:
                raise explain_block(self.path, block, self.schema, self._is_array, "a value has another type")
            types[field.name] = wider
        self.schema = pa.schema(list(types.items()))
        return int(table.num_rows)

    def _parse(self, block: Block, fields: pa.Schema | None) -> pa.Table:
        try:
            if fields is None:
                block.text.decode()
            return arrow_json.read_json(
                pa.BufferReader(block.text),
                read_options=arrow_json.ReadOptions(use_threads=False, block_size=len(block.text) + 1),
                parse_options=arrow_json.ParseOptions(
                    explicit_schema=fields, unexpected_field_behavior="infer" if fields is None else "ignore"
                ),
            )
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            raise explain_block(self.path, block, self.schema, self._is_array, str(error)) from error


def _json_type(type_: pa.DataType) -> pa.DataType:
    """The type with every time that Arrow saw in strings turned back into a string."""
    if pa.types.is_timestamp(type_):
        return pa.string()
    if pa.types.is_list(type_):
        return pa.list_(_json_type(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _json_type(field.type)) for field in type_])
    return type_

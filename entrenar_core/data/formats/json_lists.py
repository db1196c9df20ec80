"""Lists of objects without one type, as Arrow wants it: they are kept as JSON text.

Chats come like that (content is text in one message and a list of parts in the next), and so do the schemas of tools.
Which columns are concerned shows when a block does not fit; from then on their cells are rewritten before Arrow parses.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import pyarrow as pa

from entrenar_core.data.formats.json_blocks import Block
from entrenar_core.data.formats.json_mistakes import kinds_of_schema, kinds_of_value


def lists_of_several_types(block: Block, schema: pa.Schema) -> set[str]:
    """The columns of lists of objects in which a key has values of several types, or another one than in `schema`."""
    known = dict(kinds_of_schema(schema))
    varying: set[str] = set()
    others = {name for name in schema.names if known.get(name, "a list") != "a list"}
    for column, cell in _cells(block):
        if not _is_list_of_objects(cell):
            others.add(column)
        elif any(known.setdefault(path, kind) != kind for path, kind in kinds_of_value(cell, column)):
            varying.add(column)
    return varying - others


def with_lists_as_text(block: Block, columns: Collection[str]) -> Block:
    """The block with the cells of `columns` as JSON text; lines that cannot be read stay as they are."""
    if not columns:
        return block
    return replace(block, text=b"\n".join(_rewritten(line, columns) for line in block.text.split(b"\n")))


def _cells(block: Block) -> Iterator[tuple[str, Any]]:
    """Column and value of every cell that is not null, in the lines that can be read."""
    for line in block.text.split(b"\n"):
        yield from ((column, cell) for column, cell in (_object(line) or {}).items() if cell is not None)


def _is_list_of_objects(cell: Any) -> bool:
    return isinstance(cell, list) and all(isinstance(item, dict) or item is None for item in cell)


def _rewritten(line: bytes, columns: Collection[str]) -> bytes:
    row = _object(line)
    if row is None:
        return line
    for column in row.keys() & columns:
        if isinstance(row[column], list):
            row[column] = json.dumps(row[column], ensure_ascii=False)
    return json.dumps(row).encode()


def _object(line: bytes) -> dict[str, Any] | None:
    """None where the line is blank or is no object; Arrow's parser then says so."""
    try:
        row = json.loads(line, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key stands there twice")
    return found

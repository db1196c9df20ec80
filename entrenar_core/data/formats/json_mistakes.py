"""Finds the line that Arrow's JSON parser stumbled over, and says what is wrong with it.

Arrow tells little about where; the block in question is parsed again, line by line, with Python's parser. This runs
only when there is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from entrenar_core.data.broken import shown
from entrenar_core.data.formats.json_blocks import Block, reason_of
from entrenar_core.data.schemas import is_text
from entrenar_core.errors import DataError

_ONE_OBJECT_A_LINE = 'write one object per line, {"text": "..."}, or one array of objects'
_KIND_OF = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
}
_Seen = dict[str, tuple[str, str]]
"""By path: the kind of its values, and where it was first seen."""


def explain_block(path: Path, block: Block, schema: pa.Schema, is_array: bool, reason: str) -> DataError:
    """The error for a block that cannot be parsed, or that does not fit `schema`, what came before it.

    Args:
        reason: what Arrow says, for when nothing else is found.
    """
    unit = "item" if is_array else "line"
    seen: _Seen = {path: (kind, f"earlier {unit}s") for path, kind in kinds_of_schema(schema)}
    rows = [(number, line) for number, line in enumerate(block.text.split(b"\n"), block.first) if line.strip()]
    for number, line in rows:
        mistake = _mistake(line, seen, f"{unit} {number}")
        if mistake is not None:
            message, hint = _whole_object(block) if _begins_an_object(line, number, is_array) else mistake
            return DataError(message, where=str(path), hint=hint)
    number, what = _row_and_reason([number for number, _ in rows], reason)
    hint = "a character is cut in half, often an emoji: remove it" if "surrogate" in what else f"correct this {unit}"
    return DataError(f"{unit} {number} cannot be read: {what}", where=str(path), hint=hint)


def _row_and_reason(numbers: Sequence[int], reason: str) -> tuple[int, str]:
    """The number of the row that Arrow's message is about, counted in all lines, and the message without it."""
    row = re.search(r"in row (\d+)", reason)
    index = int(row[1]) if row and int(row[1]) < len(numbers) else 0
    return numbers[index], re.sub(r"^JSON parse error: |\s*in row \d+$", "", reason.splitlines()[0])


def _mistake(line: bytes, seen: _Seen, where: str) -> tuple[str, str] | None:
    """Message and hint for one line; None when it is sound, and then its values are noted in `seen`."""
    try:
        text = line.decode()
        value = json.loads(text, object_pairs_hook=_Pairs)
    except UnicodeDecodeError as error:
        return (
            f"{where} is not UTF-8: {line[error.start : error.start + 1]!r} at byte {error.start + 1}",
            "save the file as UTF-8",
        )
    except json.JSONDecodeError as error:
        return _not_json(text, error, where)
    except RecursionError:
        return f"{where} is nested too deeply", "store it flat, or as a string of JSON"
    if not isinstance(value, _Pairs):
        return f"{where} is {_KIND_OF.get(type(value), 'null')}, not an object: {shown(text)}", _ONE_OBJECT_A_LINE
    for path, found in _walk(value, ""):
        if isinstance(found, str) and path.endswith(_TWICE):
            return f"{where}: the key {path.removesuffix(_TWICE)!r} stands there twice", "keep one of them"
        kind = _kind(found)
        before, place = seen.setdefault(path, (kind, where))
        if kind != before:
            message = f"{where}: {path} is {kind} ({shown(_as_json(found))}), but {before} in {place}"
            return message, _same_type_hint(path, kind, before)
    return None


def _same_type_hint(path: str, kind: str, before: str) -> str:
    hint = f"give {path} one type everywhere"
    nested = "." in path or "an object" in (kind, before)
    return f"{hint}; what has no fixed shape can be stored as a string of JSON" if nested else hint


def _not_json(text: str, error: json.JSONDecodeError, where: str) -> tuple[str, str]:
    message = f"{where} is not JSON: {reason_of(error)} at character {error.pos + 1}: {shown(text)}"
    if re.match(r"\s*\{\s*'", text):
        return message, "keys and strings need double quotes: write the lines with json.dumps"
    if error.msg == "Extra data" and text[error.pos :].strip() == ",":
        return message, "remove the comma at the end of each line, or write one array: [{...}, {...}]"
    if error.msg.startswith("Unterminated string") or error.pos >= len(text.rstrip()):
        return (
            message,
            "an object ends on its line (a line break in a text is \\n); if it is cut, copy the file again",
        )
    return message, _ONE_OBJECT_A_LINE


def _begins_an_object(line: bytes, number: int, is_array: bool) -> bool:
    return number == 1 and not is_array and line.strip() == b"{"


def _whole_object(block: Block) -> tuple[str, str]:
    """For a file that is one object, printed over many lines."""
    try:
        value = json.loads(block.text)
    except ValueError:
        return "the objects are printed over several lines", f"{_ONE_OBJECT_A_LINE}; `jq -c . FILE` rewrites them"
    lists = [key for key, inner in value.items() if isinstance(inner, list)]
    hint = f"store the list under {lists[0]!r} alone: [{{...}}, {{...}}]" if lists else _ONE_OBJECT_A_LINE
    return f"the file is one JSON object with the keys {', '.join(value)}, not a list of examples", hint


class _Pairs(list[tuple[str, Any]]):
    """An object with its keys in order, also those that come twice."""


_TWICE = "\0twice"


def _walk(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value that is not null with its path, such as `messages[].content`; parents come first."""
    if isinstance(value, _Pairs):
        keys: set[str] = set()
        for key, inner in value:
            below = f"{path}.{key}" if path else key
            if key in keys:
                yield below + _TWICE, ""
            keys.add(key)
            yield from _walk_inner(inner, below)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk_inner(inner, f"{path}[]")


def _walk_inner(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    if value is not None:
        yield path, value
        yield from _walk(value, path)


def _kind(value: Any) -> str:
    return "an object" if isinstance(value, _Pairs) else _KIND_OF[type(value)]


def kinds_of_value(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """Path and kind of a value and of every value in it, but for nulls."""
    if value is not None:
        yield path, _kind(value)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from kinds_of_value(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from kinds_of_value(inner, f"{path}[]")


def kinds_of_schema(schema: pa.Schema) -> Iterator[tuple[str, str]]:
    """`kinds_of_value` for the values of every column."""
    for field in schema:
        yield from kinds_of_type(field.type, field.name)


def kinds_of_type(type_: pa.DataType, path: str) -> Iterator[tuple[str, str]]:
    """`kinds_of_value` for the values of a type."""
    if pa.types.is_struct(type_):
        yield path, "an object"
        for field in type_:
            yield from kinds_of_type(field.type, f"{path}.{field.name}")
    elif pa.types.is_list(type_):
        yield path, "a list"
        yield from kinds_of_type(type_.value_type, f"{path}[]")
    elif pa.types.is_boolean(type_):
        yield path, "true or false"
    elif is_text(type_):
        yield path, "a string"
    elif not pa.types.is_null(type_):
        yield path, "a number"


def _as_json(value: Any) -> str:
    return json.dumps(_plain(value), ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, _Pairs):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value

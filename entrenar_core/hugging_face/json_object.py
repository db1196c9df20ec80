"""JSON files that somebody else wrote: read as one object, whose values are checked when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from entrenar_core.errors import FormatError

_DAMAGED = "the file is damaged: copy or download it again"
_LARGEST = 3e38
_TOO_LARGE = 1 << 31  # for any size or count of a model


class JsonObject(Mapping[str, Any]):
    """An object and where it stands; every complaint names the file and the key. A null counts as a missing key."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = {key: value for key, value in values.items() if value is not None}
        self.where = where

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def values_by_key(self) -> dict[str, Any]:
        """A copy of all values, unchecked."""
        return dict(self._values)

    def error(self, key: str, message: str, hint: str | None = None) -> FormatError:
        return FormatError(message, where=f"{self.where}: {key}", hint=hint)

    def integer(self, key: str, default: int | None = None) -> int:
        """A whole number above 0."""
        value = self._required(key, default)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < _TOO_LARGE:
            raise self.error(key, f"expected a whole number above 0, found {_short(value)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        """A number above 0 that fits single precision, in which GGUF holds it."""
        value = self._required(key, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < _LARGEST:
            raise self.error(key, f"expected a number above 0 and below {_LARGEST:g}, found {_short(value)}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.error(key, f"expected true or false, found {_short(value)}")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._required(key, default)
        if not isinstance(value, str):
            raise self.error(key, f"expected a text, found {_short(value)}")
        return value

    def items_of(self, key: str) -> list[Any]:
        """A list; empty where the key is missing."""
        value = self._values.get(key, [])
        if not isinstance(value, list):
            raise self.error(key, f"expected a list, found {_short(value)}")
        return value

    def object(self, key: str) -> JsonObject:
        """An object; empty where the key is missing."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.error(key, f"expected an object, found {_short(value)}")
        return JsonObject(value, f"{self.where}: {key}")

    def _required(self, key: str, default: Any) -> Any:
        value = self._values.get(key, default)
        if value is None:
            raise self.error(key, "the key is missing", hint="the folder is incomplete, or of another kind of model")
        return value


def read_json(path: Path) -> JsonObject:
    """The object in a file.

    Raises:
        FormatError: it cannot be read, is no JSON, or no object; or a key occurs twice.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FormatError(f"the file cannot be read: {error.strerror or error}", where=str(path)) from error
    return JsonObject(parse_object(content, str(path)), str(path))


def parse_object(content: bytes, where: str) -> dict[str, Any]:
    """The object that JSON text spells. Raises FormatError as `read_json` does."""
    try:
        value = json.loads(content, object_pairs_hook=lambda pairs: _without_doubles(pairs, where))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"this is no valid JSON: {error}", where=where, hint=_DAMAGED) from error
    if not isinstance(value, dict):
        raise FormatError("this is no JSON object", where=where, hint=_DAMAGED)
    return value


def _without_doubles(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        seen: set[str] = set()
        double = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise FormatError(f"the key {double!r} occurs twice", where=where, hint=_DAMAGED)
    return values


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:40]}..."

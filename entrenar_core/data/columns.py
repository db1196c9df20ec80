"""Decides which columns are trained on: what the YAML names, else well-known names, else the only text there is.

A guess is taken only when it is the only one: a tie is an error that shows the candidates and the keys that settle it,
and a well-known pair with a column of the wrong type is an error too, never a reason to train on the other half.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from entrenar_core.data.parquet_source import Column
from entrenar_core.errors import DataError

TEXT_NAMES = ("text", "content", "document")
"""Names, in lower case, of a column that holds plain text."""

PAIR_NAMES = (
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
    ("question", "response"),
    ("instruction", "output"),
    ("instruction", "response"),
    ("instruction", "completion"),
    ("input", "output"),
    ("input", "target"),
    ("query", "response"),
    ("query", "answer"),
    ("source", "target"),
)
"""Names, in lower case, of a column to read and the column to answer with."""

MAX_LISTED = 20
"""Columns that an error shows."""


@dataclass(frozen=True)
class ColumnRequest:
    """What the YAML says about columns; the fields are the keys of its `data` section."""

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    auto_infer_types: bool = True


@dataclass(frozen=True)
class TextColumn:
    """Plain text: every token is a target."""

    text: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.text,)

    def __str__(self) -> str:
        return f"text {self.text!r}"


@dataclass(frozen=True)
class PromptColumns:
    """A prompt that is read and a completion that is trained."""

    prompt: str
    completion: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.prompt, self.completion)

    def __str__(self) -> str:
        return f"prompt {self.prompt!r} + completion {self.completion!r}"


ChosenColumns = TextColumn | PromptColumns


def choose_columns(columns: Mapping[str, Column], request: ColumnRequest, *, where: str) -> ChosenColumns:
    """Choose the columns of a file; `where` is its name for errors.

    Raises:
        DataError: a named column is missing or not text, nothing fits, or more than one choice does.
    """
    named = _named(request, where)
    if named is not None:
        return _checked(named, columns, where)
    if not request.auto_infer_types:
        raise DataError(
            "no column is named and inference is off",
            where=where,
            hint="set data.text, or data.prompt and data.completion, or data.auto_infer_types: true; "
            + _listed(columns),
        )
    return _by_name(columns, where) or _by_type(columns, where)


def _named(request: ColumnRequest, where: str) -> ChosenColumns | None:
    prompt, completion = request.prompt, request.completion
    if request.text is not None:
        if prompt is not None or completion is not None:
            raise DataError("set either data.text, or data.prompt and data.completion, not both", where=where)
        return TextColumn(request.text)
    if prompt is None and completion is None:
        return None
    if completion is None:
        raise DataError("data.prompt is set, but data.completion is not", where=where, hint="set both")
    if prompt is None:
        raise DataError("data.completion is set, but data.prompt is not", where=where, hint="set both, or data.text")
    if prompt == completion:
        raise DataError(f"data.prompt and data.completion are the same column {prompt!r}", where=where)
    return PromptColumns(prompt, completion)


def _checked(chosen: ChosenColumns, columns: Mapping[str, Column], where: str) -> ChosenColumns:
    keys = ("text",) if isinstance(chosen, TextColumn) else ("prompt", "completion")
    for key, name in zip(keys, chosen.names, strict=True):
        if name not in columns:
            nearest = _nearest(name, columns)
            hint = f"did you mean {nearest!r}? " if nearest else ""
            raise DataError(f"data.{key}: there is no column {name!r}", where=where, hint=f"{hint}{_listed(columns)}")
        _require_text(columns[name], where, f"data.{key}: ")
    return chosen


def _require_text(column: Column, where: str, prefix: str = "") -> None:
    if not column.is_text:
        raise DataError(
            f"{prefix}column {column.name!r} is {column.type_name}, not text",
            where=where,
            hint="name a column of strings, or store this one as strings",
        )


def _by_name(columns: Mapping[str, Column], where: str) -> ChosenColumns | None:
    candidates = _candidates(columns)
    usable = [found for found in candidates if all(columns[name].is_text for name in found.names)]
    if len(usable) > 1:
        raise DataError(
            f"several choices of columns fit: {'; '.join(str(found) for found in usable)}",
            where=where,
            hint=_settle(usable),
        )
    if usable:
        return usable[0]
    for found in candidates:
        for name in found.names:
            _require_text(columns[name], where)
    return None


def _candidates(columns: Mapping[str, Column]) -> list[ChosenColumns]:
    """Every choice that well-known names allow, whatever the types; in the order of the tables above."""
    spelled: dict[str, list[str]] = {}
    for name in sorted(columns):
        spelled.setdefault(name.lower(), []).append(name)
    texts: list[ChosenColumns] = [TextColumn(name) for known in TEXT_NAMES for name in spelled.get(known, ())]
    pairs = [
        PromptColumns(prompt, completion)
        for known_prompt, known_completion in PAIR_NAMES
        for prompt in spelled.get(known_prompt, ())
        for completion in spelled.get(known_completion, ())
    ]
    return texts + pairs


def _settle(candidates: Iterable[ChosenColumns]) -> str:
    kinds = {type(found) for found in candidates}
    keys = []
    if TextColumn in kinds:
        keys.append("data.text")
    if PromptColumns in kinds:
        keys.append("data.prompt and data.completion")
    return f"say which one with {', or '.join(keys)}"


def _by_type(columns: Mapping[str, Column], where: str) -> ChosenColumns:
    texts = [column.name for column in columns.values() if column.is_text]
    if len(texts) == 1:
        return TextColumn(texts[0])
    if not texts:
        raise DataError(f"there is no text column; {_listed(columns)}", where=where)
    shown = ", ".join(repr(name) for name in texts)
    raise DataError(
        f"several text columns and no well-known name among them: {shown}",
        where=where,
        hint="say which one with data.text, or data.prompt and data.completion",
    )


def _listed(columns: Mapping[str, Column]) -> str:
    shown = [f"{column.name} ({column.type_name})" for column in columns.values()]
    more = f" and {len(shown) - MAX_LISTED} more" if len(shown) > MAX_LISTED else ""
    return f"columns: {', '.join(shown[:MAX_LISTED])}{more}"


def _nearest(name: str, columns: Mapping[str, Column]) -> str | None:
    by_lower = {found.lower(): found for found in columns}
    close = get_close_matches(name.lower(), list(by_lower), n=1)
    return by_lower[close[0]] if close else None

"""Ludwig's form of a supervised task: ``input_features`` and ``output_features`` at the top of the file.

One text input with one category, binary or number output says the same as `data.task` with `data.columns`, and is
translated into them before the configuration is checked; every value keeps its place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import NoneType
from typing import Any, NamedTuple

from entrenar_core.config.base import KeyPath, dotted
from entrenar_core.config.problem import Problem
from entrenar_core.config.suggest import near_word
from entrenar_core.config.yaml_places import Order, Place, Source

INPUT, OUTPUT = "input_features", "output_features"
INPUT_TYPES = ("text",)
OUTPUT_TASKS: Mapping[str, tuple[str, str]] = {
    "category": ("classification", "label"),
    "binary": ("classification", "label"),
    "number": ("regression", "target"),
}
"""Type of the output -> the task, and the role of its column."""

FEATURE_KEYS = ("name", "type", "column")
_OWN_KEYS = ("task", "columns", "text", "prompt", "completion")
Placed = tuple[Order, Problem]


class Feature(NamedTuple):
    """A column with Ludwig's type, and where both stand."""

    column: str
    kind: str
    path: KeyPath
    column_place: Place
    kind_place: Place


def translate_features(source: Source) -> Iterator[Placed]:
    """Replace the features in `source` by `data.task` and `data.columns`; yields what is wrong with them."""
    present = [key for key in (INPUT, OUTPUT) if source.data.get(key) is not None]
    if not present:
        _take_out(source)
        return
    wrong = list(_beside(source, present[0]))
    features = {key: _only_feature(source, key, wrong) for key in (INPUT, OUTPUT)}
    text, answer = features[INPUT], features[OUTPUT]
    _take_out(source)
    yield from wrong
    if text is not None and answer is not None and not wrong:
        _put_in(source, text, answer)


def _beside(source: Source, key: str) -> Iterator[Placed]:
    """Keys of `data` that say the same in another way."""
    data = source.data.get("data")
    for own in _OWN_KEYS:
        if isinstance(data, Mapping) and data.get(own) is not None:
            yield _problem(source.place((key,)), (key,), f"cannot go together with data.{own}", "keep one of them")


def _only_feature(source: Source, key: str, wrong: list[Placed]) -> Feature | None:
    """The one feature of a list, None if anything is wrong with it."""
    allowed = INPUT_TYPES if key == INPUT else tuple(OUTPUT_TASKS)
    entries = source.data.get(key)
    example = f"write {key}: [{{name: COLUMN, type: {allowed[0]}}}]"
    if entries is None:
        other = OUTPUT if key == INPUT else INPUT
        wrong.append(_problem(source.place((other,)), (other,), f"needs {key} too", example))
    elif not isinstance(entries, list) or len(entries) != 1 or not isinstance(entries[0], Mapping):
        count = f"{len(entries)} features; " if isinstance(entries, list) and len(entries) != 1 else ""
        message = f"{count}must be a list of exactly one feature with name and type"
        wrong.append(_problem(source.place((key,), of_value=True), (key,), message, example))
    else:
        found = list(_feature_problems(source, key, entries[0], allowed))
        wrong += found
        return None if found else _feature(source, key, entries[0])
    return None


def _feature(source: Source, key: str, entry: Mapping[str, Any]) -> Feature:
    path: KeyPath = (key, 0)
    named = "column" if "column" in entry else "name"
    places = [source.place((*path, part), of_value=True) for part in (named, "type")]
    return Feature(entry[named], entry["type"].lower(), path, places[0], places[1])


def _feature_problems(source: Source, key: str, entry: Mapping[str, Any], allowed: tuple[str, ...]) -> Iterator[Placed]:
    path: KeyPath = (key, 0)
    for part in entry:
        if part not in FEATURE_KEYS:
            hint = f"a feature has {', '.join(FEATURE_KEYS)}; remove it"
            yield _problem(source.place((*path, part)), (*path, part), "unknown key", hint)
    for part in ("name", "type"):
        if entry.get(part) is None:
            yield _problem(source.place((*path, part)), (*path, part), "required key is missing", None)
    for part in ("name", "column"):
        if not isinstance(entry.get(part), (str, NoneType)) or entry.get(part) == "":
            place = source.place((*path, part), of_value=True)
            yield _problem(place, (*path, part), "must be the name of a column", "put it in quotes")
    kind = entry.get("type")
    if kind is not None and str(kind).lower() not in allowed:
        yield _problem(source.place((*path, "type"), of_value=True), (*path, "type"), *_wrong_type(key, kind, allowed))


def _wrong_type(key: str, kind: object, allowed: tuple[str, ...]) -> tuple[str, str | None]:
    words = allowed[0] if len(allowed) == 1 else f"one of {', '.join(allowed)}"
    if key == OUTPUT and str(kind).lower() == "text":
        hint: str | None = "to learn to write text, name data.prompt and data.completion instead of features"
    else:
        near = near_word(str(kind).lower(), allowed)
        hint = f"did you mean {near}?" if near else None
    return f'value "{kind}"; must be {words}', hint


def _put_in(source: Source, text: Feature, answer: Feature) -> None:
    data = source.data.get("data")
    if data is None:
        data = source.data["data"] = {}
    if not isinstance(data, dict):
        return
    task, role = OUTPUT_TASKS[answer.kind]
    data["task"] = task
    data["columns"] = {"text": text.column, role: answer.column}
    for path, place in {
        ("data", "task"): answer.kind_place,
        ("data", "columns"): text.column_place,
        ("data", "columns", "text"): text.column_place,
        ("data", "columns", role): answer.column_place,
    }.items():
        source.keys[path] = source.values[path] = place


def _take_out(source: Source) -> None:
    for key in (INPUT, OUTPUT):
        source.data.pop(key, None)


def _problem(place: Place, path: KeyPath, message: str, hint: str | None) -> Placed:
    return place.order, Problem(place.where, dotted(path), message, hint)

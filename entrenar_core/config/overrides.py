"""``--set section.key=value``: changes to a source before it is validated; its places then name the option."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from entrenar_core.config.problem import ConfigProblems, Problem
from entrenar_core.config.yaml_places import Order, Place, Source
from entrenar_core.config.yaml_source import parse_value

_AFTER_THE_FILES = 10**9
"""Problems of overrides are listed after those of the files."""


def apply_overrides(source: Source, overrides: Sequence[str]) -> Iterator[tuple[Order, Problem]]:
    """Set each ``a.b=value`` in `source`, later ones on top; yields what is wrong with the options themselves."""
    for index, override in enumerate(overrides):
        order = (_AFTER_THE_FILES, index, 0)
        key, has_value, text = override.partition("=")
        path = tuple(key.strip().split("."))
        where = f"--set {key.strip()}"
        if not has_value or not all(path):
            yield order, Problem(f"--set {override}", "", "an override is written section.key=value")
            continue
        try:
            value = parse_value(text, where)
        except ConfigProblems as error:
            reason = error.problems[0].message.partition("\n")[0]
            yield order, Problem(where, "", f"{text!r} is not a YAML value: {reason}", "quote it: key='\"text\"'")
            continue
        blocker = set_value(source, path, value, Place(where, order, text.strip()))
        if blocker:
            yield order, Problem(where, "", f"{blocker} is not a section", "set the whole value instead")


def set_value(source: Source, path: tuple[str, ...], value: object, place: Place) -> str | None:
    """Set one key; returns the dotted name of a value that stands where a section should be."""
    section: dict[str, Any] = source.data
    for depth, name in enumerate(path[:-1], start=1):
        inner = section.get(name)
        if inner is None:
            inner = section[name] = {}
            source.keys[path[:depth]] = source.values[path[:depth]] = replace(place, text=None)
        if not isinstance(inner, dict):
            return ".".join(path[:depth])
        section = inner
    section[path[-1]] = value
    source.forget(path)
    source.keys[path] = source.values[path] = place
    return None


def take_away(source: Source, path: tuple[str, ...]) -> None:
    """Remove one key, if it is there."""
    section: Any = source.data
    for name in path[:-1]:
        section = section.get(name) if isinstance(section, dict) else None
    if isinstance(section, dict) and path[-1] in section:
        del section[path[-1]]
        source.forget(path)

"""Turns validation errors into sentences: the value, what is allowed, and what may have been meant."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from types import NoneType
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MultipleOf
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from entrenar_core.config.base import NOT_ALLOWED, Available, KeyPath, Path, entry_section, nested_section, schema_path
from entrenar_core.config.suggest import hint_for_value, near_word

_SHOWN = 60
_MAIN_KEY: Mapping[Path, str] = {
    ("model",): "path",
    ("data",): "train",
    ("optimizer",): "name",
    ("distill",): "teacher",
    ("distill", "cache"): "path",
    ("distill", "hidden"): "loss",
}
"""The key that is meant when a section is given as one word."""

_TRUTH = {"yes": "true", "on": "true", "no": "false", "off": "false"}
"""Words of YAML 1.1 that were truth values there."""


def show_value(value: object, text: str | None) -> str:
    """A value as the person wrote it; `text` is its source if it is a scalar."""
    if text is not None and "${" in text:
        return f"{_shortened(_shown(value, None))} (from {text})"
    return _shortened(_shown(value, text))


def _shown(value: object, text: str | None) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping) and len(json.dumps(value, default=str)) > _SHOWN:
        return f"a mapping with {_counted(len(value), 'key')}"
    if isinstance(value, (list, tuple, Mapping)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return text or json.dumps(value, default=str)


def _shortened(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def what_is_allowed(field: FieldInfo) -> str:
    """Completes "must be ..." from the type and the range of a field."""
    bounds = " and ".join(filter(None, map(_bound, field.metadata)))
    or_null = "(or null)" if NoneType in get_args(field.annotation) else ""
    return " ".join(filter(None, (_noun(field), bounds, or_null)))


def _noun(field: FieldInfo) -> str:
    """What kind of value a field takes."""
    available = next((mark.words for mark in field.metadata if isinstance(mark, Available)), ())
    words, nested = available or allowed_words(field), nested_section(field)
    if words:
        return words[0] if len(words) == 1 else f"one of {', '.join(words)}"
    if nested is not None:
        return f"a section with keys such as {', '.join(list(nested.model_fields)[:3])}"
    kind = next(kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not NoneType)
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, "a value")


def allowed_words(field: FieldInfo) -> Sequence[str]:
    """The values of a field that takes one of a few words."""
    for kind in (field.annotation, *get_args(field.annotation)):
        if get_origin(kind) is Literal:
            return [str(word) for word in get_args(kind)]
    return []


def describe(error: ErrorDetails, loc: KeyPath, field: FieldInfo, text: str | None) -> tuple[str, str | None]:
    """The message and the hint for a wrong value of a known key; `loc` is the key in the schema."""
    value, path = error["input"], schema_path(loc)
    if error["type"] == NOT_ALLOWED:
        allowed = error["ctx"]["allowed"]
    elif error["type"] == "string_too_short":
        allowed = "text that is not empty"
    elif isinstance(loc[-1], int) and entry_section(field) is not None:
        allowed = "a path, or a mapping such as {path: FILE, weight: 1}"
    else:
        allowed = what_is_allowed(field)
    words = allowed_words(field) or (["all"] if path[-1] in ("target_modules", "layers") else [])
    hint = hint_for_value(path, value, words) or _hint_for_type(value, field, error["type"])
    if isinstance(value, str) and nested_section(field) is not None:
        hint = _hint_for_section(path, value, field)
    return f"value {show_value(value, text)}; must be {allowed}", hint


def _bound(rule: Any) -> str | None:
    match rule:
        case Gt(gt=low):
            return f"greater than {low}"
        case Ge(ge=low):
            return f"of at least {low}"
        case Lt(lt=high):
            return f"less than {high}" if high < 2**63 else "less than 2**63"
        case Le(le=high):
            return f"of at most {high}"
        case MultipleOf(multiple_of=step):
            return f"divisible by {step}"
    return None


def _hint_for_type(value: object, field: FieldInfo, kind: str) -> str | None:
    """A remedy for a value that only looks right: quoted numbers, yes and no, one name where a list belongs."""
    wanted = get_args(field.annotation) or (field.annotation,)
    if isinstance(value, str):
        return None if kind == NOT_ALLOWED and int in wanted else _hint_for_text(value, wanted)  # sizes may be quoted
    if isinstance(value, float) and kind in ("int_type", "int_from_float") and value.is_integer():
        return f"write {int(value)}"
    if str in wanted and isinstance(value, (int, float, bool)):
        return "put it in quotes if it is meant as text"
    return None


def _hint_for_text(value: str, wanted: Sequence[Any]) -> str | None:
    """What a text stands for where a truth value, a number or a list is wanted."""
    if bool in wanted and value.lower() in _TRUTH:
        return f"write {_TRUTH[value.lower()]}"
    plain = _plain_number(value)
    if (int in wanted or float in wanted) and _is_number_text(plain):
        return f"write {plain} without quotes" if plain == value.strip() else f"write {plain}"
    return f"write [{value}]" if any(get_origin(kind) is tuple for kind in wanted) else None


def _plain_number(value: str) -> str:
    """A number without marks between its digits: 1_000 and 1,000,000 as thousands, 0,0001 with a decimal comma."""
    text = value.replace("_", "").strip()
    groups = text.split(",")
    is_decimal = len(groups) == 2 and (len(groups[1]) != 3 or groups[0].lstrip("+-") in ("", "0"))
    return ".".join(groups) if is_decimal else "".join(groups)


def _hint_for_section(path: Path, value: str, field: FieldInfo) -> str | None:
    """For a text where a section belongs: a forgotten ':', or the main key of the section left out."""
    section = nested_section(field)
    first, _, rest = value.partition(" ")
    if section is not None and first in section.model_fields and rest:
        return f"write {first}: {rest}"
    if path not in _MAIN_KEY or section is None:
        return None
    main = _MAIN_KEY[path]
    word = near_word(value.lower(), allowed_words(section.model_fields[main])) or value
    return f"write {path[-1]}: {{{main}: {word}}}"


def _is_number_text(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

"""What every section of the schema shares: strictness, conflicts between keys, and a way to walk the schema.

A conflict is a combination of keys that cannot go together. It is looked for in the raw values, so that it is
reported together with wrong values of other keys; a section built in Python is checked by the same rules.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Self, TypeGuard, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

Path = tuple[str, ...]
"""A key of the configuration: ``("optimizer", "lr")``."""

KeyPath = tuple[str | int, ...]
"""A key with positions in lists: ``("data", "train", 1, "weight")``."""

CONFLICT = "conflict"
NOT_ALLOWED = "not_allowed"
"""Types of our own validation errors: keys that cannot go together, and a value with the text of what is allowed."""


class Conflict(NamedTuple):
    """`key` is relative to the section that reports it and may be dotted: ``train.1.weight``."""

    key: str
    message: str
    hint: str | None = None


class Section(BaseModel):
    """A strict, frozen part of the configuration: no unknown keys, no conversions, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        """Combinations that cannot go together. `given` holds the keys that are set and not null, still unchecked."""
        del given
        yield from ()

    @model_validator(mode="after")
    def _has_no_conflicts(self) -> Self:
        given = {
            key_of(name, field): getattr(self, name)
            for name, field in type(self).model_fields.items()
            if name in self.model_fields_set and getattr(self, name) is not None
        }
        for conflict in self.conflicts(given):
            raise PydanticCustomError(CONFLICT, "{message}", conflict._asdict())
        return self


@dataclass(frozen=True)
class Available:
    """Metadata of a field: the words that this release can work with; the others are known and refused."""

    words: tuple[str, ...]


def not_allowed(allowed: str) -> PydanticCustomError:
    """The error of a value; `allowed` completes the sentence "must be ..."."""
    return PydanticCustomError(NOT_ALLOWED, "must be {allowed}", {"allowed": allowed})


def _lower(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


AnyCase = BeforeValidator(_lower)
"""Names are case-insensitive and kept in lower case."""


def _tuple(value: Any) -> Any:
    if isinstance(value, tuple):
        return value
    if not isinstance(value, list) or not value or not all(isinstance(name, str) and name for name in value):
        raise not_allowed("a list of names, such as [q_proj, v_proj]")
    return tuple(value)


NonEmpty = Annotated[str, Field(min_length=1)]
Names = Annotated[
    tuple[str, ...],
    BeforeValidator(_tuple, json_schema_input_type=Annotated[list[NonEmpty], Field(min_length=1)]),
]
"""A list of names with at least one entry."""


NamesOrAll = Annotated[list[NonEmpty], Field(min_length=1)] | Literal["all"]
"""How a list of module names, or all of them, is written."""


def names_or_all(value: Any) -> Any:
    """The names as a tuple, or the word ``all``.

    Raises:
        PydanticCustomError: it is neither.
    """
    if isinstance(value, str) and value.lower() == "all":
        return "all"
    is_list = isinstance(value, (list, tuple)) and len(value) > 0
    if not is_list or not all(isinstance(name, str) and name for name in value):
        raise not_allowed("a list of module names, such as [q_proj, v_proj], or the word all")
    return tuple(value)


def _expanded(value: Any) -> Any:
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


UserPath = BeforeValidator(_expanded)
"""A path in which ``~`` is the home of the user."""


def content_hash(content: Mapping[str, Any]) -> str:
    """SHA-256 of the plain values of a section (`model_dump`), in hex digits; equal values have equal hashes."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def given_keys(section: object) -> Mapping[str, Any]:
    """The set keys of a section, whether it is raw, built or missing."""
    if isinstance(section, Section):
        return {key: value for key, value in section if value is not None and key in section.model_fields_set}
    if isinstance(section, Mapping):
        return {key: value for key, value in section.items() if value is not None}
    return {}


def is_number(value: object) -> TypeGuard[int | float]:
    """True for int and float, not for bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_count(value: object) -> TypeGuard[int]:
    """True for a whole number above zero."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def key_of(name: str, field: FieldInfo) -> str:
    """The key of a field in YAML, which differs from its name where that is a word of Python (``lambda``)."""
    return field.alias or name


def nested_section(field: FieldInfo) -> type[Section] | None:
    """The section that a field holds (``Lora`` for ``Lora | None``), None for a plain value."""
    options = () if get_origin(field.annotation) is tuple else get_args(field.annotation)
    for candidate in (field.annotation, *options):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def entry_section(field: FieldInfo) -> type[Section] | None:
    """The section of each entry of a list (``Source`` for ``tuple[Source, ...] | None``), None for other fields."""
    for candidate in (field.annotation, *get_args(field.annotation)):
        entry = get_args(candidate)[0] if get_origin(candidate) is tuple else None
        if isinstance(entry, type) and issubclass(entry, Section):
            return entry
    return None


def schema_fields(section: type[Section], prefix: Path = ()) -> Iterator[tuple[Path, FieldInfo]]:
    """Every key below `section` with its field, depth first, sections before their keys.

    The keys of the entries of a list stand directly below the key of the list: ``("data", "train", "weight")``.
    """
    for name, field in section.model_fields.items():
        key = (*prefix, key_of(name, field))
        yield key, field
        nested = nested_section(field) or entry_section(field)
        if nested is not None:
            yield from schema_fields(nested, key)


def conflicts_below(section: type[Section], raw: object, prefix: KeyPath = ()) -> Iterator[tuple[KeyPath, Conflict]]:
    """The conflicts of `section` and of the sections inside it, for raw values that may be wrong in other ways."""
    if not isinstance(raw, Mapping):
        return
    given = {key: value for key, value in raw.items() if value is not None}
    for conflict in section.conflicts(given):
        yield (*prefix, *_parts(conflict.key)), conflict
    for name, field in section.model_fields.items():
        nested, entry, value = nested_section(field), entry_section(field), given.get(name)
        if nested is not None:
            yield from conflicts_below(nested, value, (*prefix, name))
        elif entry is not None:
            for index, item in _items(value):
                yield from conflicts_below(entry, item, (*prefix, name, *index))


def _parts(key: str) -> KeyPath:
    return tuple(int(part) if part.isdecimal() else part for part in key.split("."))


def _items(value: object) -> Iterator[tuple[tuple[int, ...], object]]:
    """The entries of a list with their positions; a value without brackets is a list of one."""
    if isinstance(value, (list, tuple)):
        yield from (((index,), item) for index, item in enumerate(value))
    else:
        yield (), value


def schema_path(place: Iterable[str | int]) -> Path:
    """A key without the positions in lists: where `schema_fields` has it."""
    return tuple(part for part in place if isinstance(part, str))


def dotted(place: Iterable[str | int]) -> str:
    """A key as people write it: ``data.train[1].weight``."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")

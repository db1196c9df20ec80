"""Recognises conversations: lists of {role, content}, or ShareGPT's {from, value}, as lists or as their JSON text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from entrenar_core.data.column_cutoffs import MESSAGES_MIN_SHARE, MESSAGES_PARSED
from entrenar_core.data.column_stats import Distinct

FORMS: tuple[tuple[str, str], ...] = (("role", "content"), ("from", "value"))
"""Who speaks and what is said: OpenAI's form and ShareGPT's."""

WRAPPERS = ("messages", "conversations")
"""Keys of an object that holds the list, beside such things as its tools."""


def form_of_type(type_: pa.DataType) -> tuple[str, str] | None:
    """The form of messages that a nested Arrow type holds; None where it holds something else."""
    if is_list(type_):
        return form_of_keys(_field_names(type_.value_type))
    if pa.types.is_struct(type_):
        fields = {field.name: field.type for field in type_}
        inner = next((fields[name] for name in WRAPPERS if name in fields), None)
        return form_of_type(inner) if inner is not None and is_list(inner) else None
    return None


def form_of_keys(keys: set[str]) -> tuple[str, str] | None:
    return next((form for form in FORMS if keys >= set(form)), None)


def is_list(type_: pa.DataType) -> bool:
    tests = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(test(type_) for test in tests)


def form_of_json(distinct: Distinct) -> tuple[str, str] | None:
    """The form of messages that strings hold as JSON; a few broken ones among many do not matter."""
    is_json = pc.match_substring_regex(distinct.values, r"^[\[{]")
    if distinct.share_of(is_json) < MESSAGES_MIN_SHARE:
        return None
    for form in FORMS:
        likely = pc.and_(is_json, _has_keys(distinct.values, form))
        if distinct.share_of(likely) >= MESSAGES_MIN_SHARE:
            return form if _parse(distinct.values.filter(likely), form) else None
    return None


def _has_keys(values: pa.Array, form: tuple[str, str]) -> pa.Array:
    return pc.and_(*(pc.match_substring(values, f'"{key}"') for key in form))


def _parse(likely: pa.Array, form: tuple[str, str]) -> bool:
    """Whether enough of the first values, in their own order and not that of the rows, are messages."""
    chosen = likely.take(pc.array_sort_indices(likely)[:MESSAGES_PARSED])
    parsed = [_is_messages(text, form) for text in chosen.to_pylist()]
    return sum(parsed) >= MESSAGES_MIN_SHARE * len(parsed)


def _is_messages(text: str, form: tuple[str, str]) -> bool:
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if isinstance(value, Mapping):
        value = next((value[name] for name in WRAPPERS if name in value), None)
    if not isinstance(value, list):
        return False
    return all(isinstance(message, Mapping) and form[0] in message for message in value)


def _field_names(type_: pa.DataType) -> set[str]:
    return {field.name for field in type_} if pa.types.is_struct(type_) else set()

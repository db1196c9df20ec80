"""One schema for several files, or several blocks of one: types that differ are widened where nothing is lost.

Numbers widen to the larger type, an all-null column takes any type, the spellings of string and of list are one, a
struct takes the fields of both. Everything else is a conflict.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

Rule = Callable[[pa.DataType, pa.DataType], pa.DataType | None]


def unify_types(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both; None when there is none."""
    if one.equals(other):
        return one
    one, other = _plain(one), _plain(other)
    if pa.types.is_null(one) or one.equals(other):
        return other
    if pa.types.is_null(other):
        return one
    for family, rule in _RULES:
        if family(one) and family(other):
            return rule(one, other)
    return None


def _plain(type_: pa.DataType) -> pa.DataType:
    """A dictionary as the type of its values."""
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def is_text(type_: pa.DataType) -> bool:
    """Whether every value of the type is a string (or null)."""
    plain = _plain(type_)
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_day_or_time(type_: pa.DataType) -> bool:
    return bool(pa.types.is_date(type_) or pa.types.is_timestamp(type_))


def _is_list(type_: pa.DataType) -> bool:
    return bool(pa.types.is_list(type_) or pa.types.is_large_list(type_) or pa.types.is_fixed_size_list(type_))


def _is_bytes(type_: pa.DataType) -> bool:
    return bool(pa.types.is_binary(type_) or pa.types.is_large_binary(type_))


def _wider_number(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    if pa.types.is_floating(one) and pa.types.is_floating(other):
        return max(one, other, key=_width)
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        if pa.types.is_signed_integer(one) == pa.types.is_signed_integer(other):
            return max(one, other, key=_width)
        unsigned = one if pa.types.is_unsigned_integer(one) else other
        return pa.float64() if _width(unsigned) == 64 else pa.int64()
    return pa.float64()


def _width(type_: pa.DataType) -> int:
    return int(type_.bit_width)


def _finer_time(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """A date is the midnight of its day, so that dates and times without a zone make times."""
    if pa.types.is_date(one) and pa.types.is_date(other):
        return pa.date64()
    times = [type_ for type_ in (one, other) if pa.types.is_timestamp(type_)]
    zones = {type_.tz for type_ in times}
    if len(zones) > 1 or (len(times) == 1 and zones != {None}):
        return None
    finest = max((type_.unit for type_ in times), key=["s", "ms", "us", "ns"].index)
    return pa.timestamp(finest, tz=zones.pop())


def _list_of_both(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    inner = unify_types(one.value_type, other.value_type)
    return None if inner is None else pa.list_(inner)


def _struct_of_both(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    fields: dict[str, pa.DataType] = {field.name: field.type for field in one}
    for field in other:
        type_ = unify_types(fields.get(field.name, pa.null()), field.type)
        if type_ is None:
            return None
        fields[field.name] = type_
    return pa.struct(list(fields.items()))


_RULES: tuple[tuple[Callable[[pa.DataType], bool], Rule], ...] = (
    (is_text, lambda _one, _other: pa.string()),
    (_is_number, _wider_number),
    (_is_day_or_time, _finer_time),
    (_is_list, _list_of_both),
    (pa.types.is_struct, _struct_of_both),
    (_is_bytes, lambda _one, _other: pa.binary()),
)


@dataclass(frozen=True)
class Disagreement:
    """Why a column cannot be read from all files. `is_absence`: a file lacks it; else its type is another."""

    is_absence: bool
    message: str
    where: str
    hint: str


def unify_schemas(schemas: Sequence[tuple[str, pa.Schema]]) -> tuple[pa.Schema, dict[str, Disagreement]]:
    """One schema for several files, and the columns on which they disagree, which keep the type of the first file.

    Args:
        schemas: the name of each file and its schema.
    """
    types: dict[str, pa.DataType] = {}
    first_seen: dict[str, str] = {}
    disagreements: dict[str, Disagreement] = {}
    for file, schema in schemas:
        for field in schema:
            known = types.setdefault(field.name, field.type)
            seen_in = first_seen.setdefault(field.name, file)
            wider = unify_types(known, field.type)
            if wider is None:
                disagreements.setdefault(field.name, _other_type(field, file, known, seen_in))
            else:
                types[field.name] = wider
    for file, schema in schemas:
        for name in types.keys() - set(schema.names):
            disagreements.setdefault(name, _absent(name, file, first_seen[name]))
    metadata = schemas[0][1].metadata
    return pa.schema(list(types.items()), metadata=metadata), disagreements


def _other_type(field: pa.Field, file: str, known: pa.DataType, seen_in: str) -> Disagreement:
    return Disagreement(
        is_absence=False,
        message=f"column {field.name!r} is {field.type} here, but {known} in {seen_in}",
        where=file,
        hint="write both files with one type, or name only files that agree",
    )


def _absent(name: str, file: str, seen_in: str) -> Disagreement:
    return Disagreement(
        is_absence=True,
        message=f"this file has no column {name!r}, but {seen_in} has",
        where=file,
        hint="name only files that have the same columns",
    )

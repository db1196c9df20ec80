"""The type of a CSV column, learned from all of its cells, and the cells turned into that type."""

from __future__ import annotations

import pyarrow as pa
from pyarrow import compute as pc

NOTHING_WORDS = ("NA", "N/A", "n/a", "#N/A", "NaN", "nan", "NULL", "null", "None", "none", "-")
"""What stands for nothing in a column of numbers, times or true/false; in a column of text it is text."""

_LADDERS = (
    (pa.int64(), pa.float64()),
    (pa.bool_(),),
    (pa.date32(), pa.timestamp("us")),
    (pa.timestamp("us", tz="UTC"),),
)
"""Each type takes all that the ones before it take; a column whose cells fit none of a ladder is text."""

_NOT_A_NUMBER = r"^[+-]?0[0-9xX]"
"""007 is a code, 0x10 somebody's spelling."""

_TRUE_OR_FALSE = r"^(true|false|True|False|TRUE|FALSE)$"


class TypeGuess:
    """The narrowest type that all cells seen so far have."""

    def __init__(self) -> None:
        self._type: pa.DataType = pa.null()
        self._has_words = False

    @property
    def type(self) -> pa.DataType:
        """null for a column without a cell; a column of nothing but words for nothing is text."""
        return pa.string() if pa.types.is_null(self._type) and self._has_words else self._type

    def learn(self, cells: pa.Array) -> None:
        """Widen the type to that of more cells, an array of strings."""
        if pa.types.is_string(self._type):
            return
        self._has_words |= cells.null_count < len(cells)
        known = _without_nothing(cells).drop_null()
        if len(known):
            self._type = next((type_ for type_ in self._candidates() if _fits(known, type_)), pa.string())

    def _candidates(self) -> list[pa.DataType]:
        for ladder in _LADDERS:
            if self._type in ladder:
                return list(ladder[ladder.index(self._type) :])
        return [type_ for ladder in _LADDERS for type_ in ladder]


def converted(texts: pa.RecordBatch, fields: pa.Schema) -> pa.RecordBatch:
    """Cells as text turned into the types that were learned from them."""
    columns = [_converted(texts.column(field.name), field.type) for field in fields]
    return pa.RecordBatch.from_arrays(columns, schema=fields)


def _converted(cells: pa.Array, type_: pa.DataType) -> pa.Array:
    if pa.types.is_string(type_):
        return cells
    if pa.types.is_null(type_):
        return pa.nulls(len(cells))
    return _without_nothing(cells).cast(type_)


def _without_nothing(cells: pa.Array) -> pa.Array:
    """Cells without blanks around them, and null where a word says that there is nothing."""
    trimmed = pc.utf8_trim_whitespace(cells)
    is_nothing = pc.is_in(trimmed, pa.array([*NOTHING_WORDS, ""]))
    return pc.if_else(is_nothing, pa.scalar(None, pa.string()), trimmed)


def _fits(cells: pa.Array, type_: pa.DataType) -> bool:
    if pa.types.is_boolean(type_) and not _all_match(cells, _TRUE_OR_FALSE):
        return False
    is_number = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    if is_number and pc.any(pc.match_substring_regex(cells, _NOT_A_NUMBER)).as_py():
        return False
    try:
        cells.cast(type_)
    except pa.ArrowInvalid:
        return False
    return True


def _all_match(cells: pa.Array, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells, pattern)).as_py())

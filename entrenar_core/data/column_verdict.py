"""What is concluded from the values of a column."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What the values of a column are, whatever they are stored as."""

    NUMBER = "number"
    BINARY = "binary"
    CATEGORY = "category"
    TEXT = "text"
    DATETIME = "datetime"
    VECTOR = "vector"
    MESSAGES = "messages"
    STRUCT = "struct"
    EMPTY = "empty"


@dataclass(frozen=True)
class Verdict:
    """A kind, and the sentence that says why; the other fields are those of `ColumnType`."""

    kind: Kind
    reason: str
    n_values: int = 0
    n_distinct: int | None = None
    distinct: tuple[str, ...] = ()
    mean_words: float = 0.0
    mean_chars: float = 0.0
    is_id: bool = False
    is_numeric: bool = False
    is_whole: bool = False

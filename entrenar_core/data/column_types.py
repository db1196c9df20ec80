"""What each column of a table holds, from its Arrow type and its values: docs/inference.md has the rules.

    Arrow type -> numbers | strings | times | nested      values -> distinct share, words, sequences      -> Kind

The answer does not depend on the order of the rows, on chunks, on dictionary encoding or on how many values are
missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from entrenar_core.data.column_cutoffs import CATEGORY_MAX_DISTINCT, CATEGORY_MAX_SHARE, LABEL_FREE_ROWS
from entrenar_core.data.column_stats import distinct_of, rows_of
from entrenar_core.data.column_verdict import Kind, Verdict
from entrenar_core.data.message_form import form_of_type, is_list
from entrenar_core.data.number_column import as_float, number_verdict
from entrenar_core.data.string_column import string_verdict
from entrenar_core.data.task_names import is_id_name

__all__ = ["ColumnType", "Kind", "infer_column", "infer_types"]


@dataclass(frozen=True)
class ColumnType:
    """A column and what it holds.

    Attributes:
        kind: what the values are, whatever they are stored as.
        arrow_type: how they are stored.
        reason: one sentence that says why it is of this kind.
        n_values: values that are there.
        n_nulls: values that are missing: null, NaN, or a blank string.
        n_distinct: distinct values; None for lists and structs.
        distinct: those of a category or binary column, sorted, up to DISTINCT_LISTED of them.
        mean_words: words in a value, on average; a Chinese or Japanese character is a word.
        mean_chars: characters in a string, on average.
        is_id: its name or its values say that it only numbers or names the rows.
        is_string: stored as strings, so it can be read as text.
        is_numeric: its values are numbers, whatever they are stored as.
        is_whole: they are whole numbers.
    """

    name: str
    kind: Kind
    arrow_type: str
    reason: str
    n_values: int = 0
    n_nulls: int = 0
    n_distinct: int | None = None
    distinct: tuple[str, ...] = ()
    mean_words: float = 0.0
    mean_chars: float = 0.0
    is_id: bool = False
    is_string: bool = False
    is_numeric: bool = False
    is_whole: bool = False

    @property
    def is_constant(self) -> bool:
        """There is one value at most: nothing can be learned from it."""
        return self.n_distinct is not None and self.n_distinct <= 1

    @property
    def is_text_like(self) -> bool:
        """It can be read as text: strings, whatever their kind, that are no messages."""
        return self.is_string and self.kind not in (Kind.MESSAGES, Kind.EMPTY)

    @property
    def is_label_like(self) -> bool:
        """Its values can be classes: few and repeated, or a column too short to tell."""
        if self.kind in (Kind.CATEGORY, Kind.BINARY):
            return True
        is_word = self.is_string and self.kind is Kind.TEXT
        if self.n_distinct is None or not (is_word or self.is_whole):
            return False
        is_repeated = self.n_distinct <= CATEGORY_MAX_SHARE * self.n_values or self.n_values < LABEL_FREE_ROWS
        return self.n_distinct <= CATEGORY_MAX_DISTINCT and is_repeated


def infer_types(table: pa.Table) -> dict[str, ColumnType]:
    """The type of every column, in their order."""
    return {name: infer_column(name, table.column(index)) for index, name in enumerate(table.column_names)}


def infer_column(name: str, values: pa.ChunkedArray | pa.Array) -> ColumnType:
    """The type of one column."""
    plain = _plain(values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values]))
    verdict = _verdict(plain)
    column = ColumnType(
        name,
        verdict.kind,
        str(values.type),
        verdict.reason,
        n_values=verdict.n_values,
        n_nulls=len(plain) - verdict.n_values,
        n_distinct=verdict.n_distinct,
        distinct=verdict.distinct,
        mean_words=verdict.mean_words,
        mean_chars=verdict.mean_chars,
        is_id=verdict.is_id,
        is_string=_is_string(plain.type),
        is_numeric=verdict.is_numeric,
        is_whole=verdict.is_whole,
    )
    return _named_id(column)


def _named_id(column: ColumnType) -> ColumnType:
    """Whole numbers and single words are ids when the name says so."""
    is_key = column.is_whole or (column.is_string and column.mean_words == 1.0)
    if column.is_id or not is_key or not is_id_name(column.name):
        return column
    return replace(column, is_id=True, reason=f"{column.reason}, and an id by its name")


def _plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values without the encodings that only save memory, and without extension types."""
    if isinstance(values.type, pa.BaseExtensionType):
        storage = values.type.storage_type
        return _plain(pa.chunked_array([chunk.storage for chunk in values.chunks], storage))
    if pa.types.is_dictionary(values.type):
        return _plain(values.cast(values.type.value_type))
    if pa.types.is_run_end_encoded(values.type):
        decoded = [pc.run_end_decode(chunk) for chunk in values.chunks]
        return _plain(pa.chunked_array(decoded, values.type.value_type))
    return values if not _is_string(values.type) or is_decodable(values) else _decodable_alone(values)


def is_decodable(values: pa.ChunkedArray) -> bool:
    """Whether every string of a column is UTF-8, also those inside of lists and structs."""
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _decodable_alone(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """The strings that are not UTF-8 are missing; to read the column is an error that names the row."""
    texts = [_decoded(raw) for raw in values.cast(pa.large_binary()).to_pylist()]
    return pa.chunked_array([pa.array(texts, values.type)])


def _decoded(raw: bytes | None) -> str | None:
    try:
        return None if raw is None else raw.decode()
    except UnicodeDecodeError:
        return None


def _verdict(values: pa.ChunkedArray) -> Verdict:
    if len(values) == 0:
        return Verdict(Kind.EMPTY, "there are no rows: empty", n_distinct=0)
    if values.null_count == len(values):
        return Verdict(Kind.EMPTY, f"all values are null in {rows_of(len(values), 0)}: empty", n_distinct=0)
    judge = next(judge for is_it, judge in _JUDGES if is_it(values.type))
    return judge(values)


def _is_string(type_: pa.DataType) -> bool:
    return bool(pa.types.is_string(type_) or pa.types.is_large_string(type_) or pa.types.is_string_view(type_))


def _is_number(type_: pa.DataType) -> bool:
    return bool(pa.types.is_integer(type_) or pa.types.is_floating(type_) or pa.types.is_decimal(type_))


def _is_vector(type_: pa.DataType) -> bool:
    return is_list(type_) and _is_number(type_.value_type)


def _judge_numbers(values: pa.ChunkedArray) -> Verdict:
    distinct = distinct_of(as_float(values))
    if distinct.n_distinct == 0:
        return Verdict(Kind.EMPTY, f"all values are null or NaN in {rows_of(len(values), 0)}: empty", n_distinct=0)
    return number_verdict(distinct, len(values) - distinct.n_values)


def _judge_booleans(values: pa.ChunkedArray) -> Verdict:
    distinct = distinct_of(values)
    names = tuple(sorted(str(value).lower() for value in distinct.values.to_pylist()))
    rows = rows_of(distinct.n_values, values.null_count)
    said = " and ".join(names) if len(names) == 2 else f"always {names[0]}"
    return Verdict(
        Kind.BINARY, f"{said} in {rows}: binary", n_values=distinct.n_values, n_distinct=len(names), distinct=names
    )


def _judge_times(values: pa.ChunkedArray) -> Verdict:
    distinct = distinct_of(values)
    return Verdict(
        Kind.DATETIME,
        f"stored as {values.type} in {rows_of(distinct.n_values, values.null_count)}: datetime",
        n_values=distinct.n_values,
        n_distinct=distinct.n_distinct,
    )


def _judge_nested(values: pa.ChunkedArray) -> Verdict:
    n_values = len(values) - values.null_count
    kind, what = _nested_kind(values.type)
    return Verdict(kind, f"{what} in {rows_of(n_values, values.null_count)}: {kind}", n_values=n_values)


def _nested_kind(type_: pa.DataType) -> tuple[Kind, str]:
    form = form_of_type(type_)
    if form is not None:
        return Kind.MESSAGES, f"lists of {{{form[0]}, {form[1]}}}"
    if is_list(type_) and pa.types.is_null(type_.value_type):
        return Kind.EMPTY, "empty lists"
    if _is_vector(type_):
        size = f"{type_.list_size} " if pa.types.is_fixed_size_list(type_) else ""
        return Kind.VECTOR, f"lists of {size}numbers"
    return Kind.STRUCT, _nested_words(type_)


def _nested_words(type_: pa.DataType) -> str:
    if is_list(type_):
        return f"lists of {_nested_words(type_.value_type)}"
    if pa.types.is_struct(type_):
        return f"{{{', '.join(field.name for field in type_)}}}"
    if re.search("binary", str(type_)):
        return "bytes"
    return "strings" if _is_string(type_) else str(type_)


_JUDGES: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.ChunkedArray], Verdict]], ...] = (
    (_is_string, string_verdict),
    (_is_number, _judge_numbers),
    (pa.types.is_boolean, _judge_booleans),
    (pa.types.is_temporal, _judge_times),
    (lambda _type: True, _judge_nested),
)

"""The kind of a column of strings: messages, true or false, numbers, dates, a category, or text."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from entrenar_core.data.column_cutoffs import (
    CATEGORY_MAX_DISTINCT,
    CATEGORY_MAX_SHARE,
    DISTINCT_LISTED,
    ID_MAX_CHARS,
    ID_MIN_ROWS,
    MIXED_MIN_SHARE,
    TEXT_MIN_CHARS,
    TEXT_MIN_WORDS,
)
from entrenar_core.data.column_stats import Distinct, distinct_strings, rows_of, smallest, word_counts
from entrenar_core.data.column_verdict import Kind, Verdict
from entrenar_core.data.message_form import form_of_json
from entrenar_core.data.number_column import number_verdict

BOOLEAN_WORDS = (
    {"yes", "no"},
    {"true", "false"},
    {"y", "n"},
    {"t", "f"},
    {"on", "off"},
)
"""Words, in lower case, of a column of true and false."""

_NUMBER = r"^[+-]?(0|[1-9][0-9]*|0?\.[0-9]+|(0|[1-9][0-9]*)\.[0-9]*)([eE][+-]?[0-9]+)?$"
"""A number in decimal; 007 is a code, because its zeros mean something."""

_DAY = "|".join(
    (
        r"[0-9]{4}[-/.][0-9]{1,2}[-/.][0-9]{1,2}",
        r"[0-9]{1,2}[-/.][0-9]{1,2}[-/.][0-9]{4}",
        r"[0-9]{1,2} [A-Za-z]{3,9} [0-9]{4}",
        r"[A-Za-z]{3,9} [0-9]{1,2}, [0-9]{4}",
    )
)
_CLOCK = r"[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.,][0-9]+)?)?( ?[AaPp][Mm])?( ?(Z|UTC|GMT|[+-][0-9]{2}:?[0-9]{2}))?"
_DATETIME = rf"^([A-Za-z]{{3}}, )?({_DAY})([T ]{_CLOCK})?$"


def string_verdict(values: pa.ChunkedArray) -> Verdict:
    """The kind of some strings that are not all null."""
    distinct = distinct_strings(values)
    n_nulls = len(values) - distinct.n_values
    if distinct.n_distinct == 0:
        return Verdict(Kind.EMPTY, f"all values are blank or null in {rows_of(len(values), 0)}: empty")
    rows = rows_of(distinct.n_values, n_nulls)
    chars = distinct.mean(pc.utf8_length(distinct.values))
    words = distinct.mean(word_counts(distinct.values))
    found = _special(distinct, n_nulls, rows, chars) or _by_words(distinct, rows, words, chars)
    is_listed = found.kind in (Kind.CATEGORY, Kind.BINARY) and not found.is_numeric
    return replace(
        found,
        n_values=distinct.n_values,
        n_distinct=distinct.n_distinct,
        distinct=_listed(distinct) if is_listed else found.distinct,
        mean_words=words,
        mean_chars=chars,
    )


def _special(distinct: Distinct, n_nulls: int, rows: str, chars: float) -> Verdict | None:
    """What strings may stand for besides themselves."""
    form = form_of_json(distinct)
    if form is not None:
        return Verdict(Kind.MESSAGES, f"JSON lists of {{{form[0]}, {form[1]}}} in {rows}: messages")
    if chars >= TEXT_MIN_CHARS:
        return None
    if pc.all(_match(distinct.values, _NUMBER)).as_py():
        numbers = distinct.values.cast(pa.float64())
        merged = _merged(numbers, distinct)
        return number_verdict(merged, n_nulls, stored=", stored as strings")
    if pc.all(_match(distinct.values, _DATETIME)).as_py():
        return Verdict(Kind.DATETIME, f"dates in {rows}, stored as strings: datetime")
    return _boolean(distinct, rows)


def _merged(numbers: pa.Array, distinct: Distinct) -> Distinct:
    """Numbers counted anew: 1 and 1.0 are two strings and one number."""
    table = pa.table({"value": numbers, "count": distinct.counts}).group_by("value").aggregate([("count", "sum")])
    merged = table.combine_chunks()
    return Distinct(merged.column("value").chunk(0), merged.column("count_sum").chunk(0))


def _match(values: pa.Array, pattern: str) -> pa.Array:
    return pc.match_substring_regex(values, pattern)


def _boolean(distinct: Distinct, rows: str) -> Verdict | None:
    if distinct.n_distinct > 8:
        return None
    lower = {value.lower() for value in distinct.values.to_pylist()}
    if lower not in BOOLEAN_WORDS:
        return None
    return Verdict(Kind.BINARY, f"only {' and '.join(sorted(lower))} in {rows}: binary")


def _by_words(distinct: Distinct, rows: str, words: float, chars: float) -> Verdict:
    mixed = _mixed(distinct) if chars < TEXT_MIN_CHARS else ""
    if words >= TEXT_MIN_WORDS or chars >= TEXT_MIN_CHARS:
        return Verdict(Kind.TEXT, f"{words:.0f} words on average in {rows}{mixed}: text")
    counted = f"{distinct.n_distinct} distinct {'value' if distinct.n_distinct == 1 else 'values'} in {rows}"
    if distinct.n_distinct <= CATEGORY_MAX_DISTINCT and distinct.share <= CATEGORY_MAX_SHARE:
        return Verdict(Kind.CATEGORY, f"{counted}{mixed}: category")
    if not mixed and _are_keys(distinct, words, chars):
        return Verdict(Kind.TEXT, f"a different word without spaces in each of {rows}: an id", is_id=True)
    return Verdict(Kind.TEXT, f"{counted}, {words:.1f} words on average{mixed}: text")


def _are_keys(distinct: Distinct, words: float, chars: float) -> bool:
    """Unique strings without a space: hashes, URLs, file names."""
    is_unique = distinct.n_distinct == distinct.n_values >= ID_MIN_ROWS
    return is_unique and words == 1.0 and chars <= ID_MAX_CHARS


def _mixed(distinct: Distinct) -> str:
    """A note that most strings are numbers or dates, with one that is not."""
    for noun, pattern in (("numbers", _NUMBER), ("dates", _DATETIME)):
        share = distinct.share_of(_match(distinct.values, pattern))
        if share >= MIXED_MIN_SHARE:
            other = smallest(distinct, lambda values, pattern=pattern: pc.invert(_match(values, pattern)))  # type: ignore[misc]
            return f", mostly {noun} but also {other!r}"
    return ""


def _listed(distinct: Distinct) -> tuple[str, ...]:
    return tuple(sorted(distinct.values.to_pylist())[:DISTINCT_LISTED])

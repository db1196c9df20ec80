"""Counts over a column that do not depend on the order of its rows: distinct values, words, sequences."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from entrenar_core.data.column_cutoffs import ID_EVEN_STEPS, ID_MIN_DENSITY, ID_MIN_ROWS

_LAST_BLANK = 0x20
"""The space; what comes before it is other blanks and control characters."""

_WIDE_LEADS = (0xE3, 0xE9)
"""First bytes, in UTF-8, of the characters of Chinese and Japanese, which are written without spaces."""


@dataclass(frozen=True)
class Distinct:
    """The distinct values of a column, missing ones left out, and how often each occurs (int64)."""

    values: pa.Array
    counts: pa.Array

    @property
    def n_distinct(self) -> int:
        return len(self.values)

    @cached_property
    def n_values(self) -> int:
        return int(pc.sum(self.counts).as_py() or 0)

    @property
    def share(self) -> float:
        """Distinct values in all values."""
        return self.n_distinct / max(1, self.n_values)

    def mean(self, measures: pa.Array) -> float:
        """Mean over all values of a measure of each distinct one."""
        return float(np.average(measures.to_numpy(zero_copy_only=False), weights=self.counts.to_numpy()))

    def share_of(self, flags: pa.Array) -> float:
        """Share of all values whose distinct value has the flag."""
        return self.mean(flags.cast(pa.int8()))


def distinct_of(values: pa.ChunkedArray) -> Distinct:
    """Distinct values but null and NaN, in no order."""
    values = values.drop_null()
    if pa.types.is_floating(values.type):
        values = values.filter(pc.invert(pc.is_nan(values)))
    counted = values.value_counts()
    return Distinct(counted.field("values"), counted.field("counts"))


def distinct_strings(values: pa.ChunkedArray) -> Distinct:
    """Distinct strings without the blanks around them; blank ones are missing."""
    found = distinct_of(values.cast(pa.large_string()))
    trimmed = pc.utf8_trim_whitespace(found.values)
    if trimmed.equals(found.values) and not pc.any(pc.equal(trimmed, "")).as_py():
        return found
    table = pa.table({"value": trimmed, "count": found.counts}).filter(pc.field("value") != "")
    merged = table.group_by("value").aggregate([("count", "sum")]).combine_chunks()
    columns = [merged.column(name).chunks for name in ("value", "count_sum")]
    if not columns[0]:
        return Distinct(pa.array([], pa.large_string()), pa.array([], pa.int64()))
    return Distinct(columns[0][0], columns[1][0])


def word_counts(values: pa.Array) -> pa.Array:
    """Words in each of some strings that are not empty; a Chinese or Japanese character is a word."""
    _, offsets_buffer, data = values.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64)[values.offset : values.offset + len(values) + 1]
    first = int(offsets[0])
    text = np.frombuffer(data, np.uint8)[first : int(offsets[-1])]
    is_blank = text <= _LAST_BLANK
    is_start = np.ones(len(text), bool)
    is_start[1:] = is_blank[:-1]
    is_start[offsets[:-1] - first] = True
    is_start &= ~is_blank
    is_start |= (text >= _WIDE_LEADS[0]) & (text <= _WIDE_LEADS[1])
    return pa.array(np.diff(np.searchsorted(np.flatnonzero(is_start), offsets - first)))


def is_sequence(distinct: Distinct, numbers: np.ndarray) -> bool:
    """Unique whole numbers that follow each other, or a sample of such numbers at even distances."""
    if distinct.n_values < ID_MIN_ROWS or distinct.n_distinct < distinct.n_values:
        return False
    ordered = np.sort(numbers.astype(np.float64))
    span = ordered[-1] - ordered[0] + 1
    if len(ordered) >= ID_MIN_DENSITY * span:
        return True
    steps = np.diff(ordered)
    usual = np.median(steps)
    return bool(np.mean((steps >= usual / 2) & (steps <= usual * 2)) >= ID_EVEN_STEPS)


def rows_of(n_values: int, n_nulls: int) -> str:
    """The rows that a reason speaks of."""
    noun = "row" if n_values == 1 else "rows"
    return f"{n_values} {noun}" if n_nulls == 0 else f"{n_values} filled {noun}"


def smallest(distinct: Distinct, is_wanted: Callable[[pa.Array], pa.Array]) -> str | None:
    """The first in order of the distinct strings that are wanted; whatever the order of the rows."""
    wanted = distinct.values.filter(is_wanted(distinct.values))
    return None if len(wanted) == 0 else str(pc.min(wanted).as_py())

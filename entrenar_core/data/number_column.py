"""The kind of a column of numbers: true or false, the codes of a category, an id, or a quantity."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from entrenar_core.data.column_cutoffs import CATEGORY_MAX_SHARE, CODES_MAX_DISTINCT, DISTINCT_LISTED
from entrenar_core.data.column_stats import Distinct, is_sequence, rows_of
from entrenar_core.data.column_verdict import Kind, Verdict

_BINARY_CODES = ({0.0, 1.0}, {-1.0, 1.0})


def number_verdict(distinct: Distinct, n_nulls: int, *, stored: str = "") -> Verdict:
    """The kind of some numbers; `stored` says how, where they are not stored as numbers."""
    numbers = distinct.values.to_numpy(zero_copy_only=False)
    finite = bool(np.isfinite(numbers.astype(np.float64)).all())
    is_whole = finite and bool((numbers == np.floor(numbers)).all())
    kind, is_id, reason = _kind(distinct, numbers, is_whole, rows_of(distinct.n_values, n_nulls), stored)
    is_listed = kind is not Kind.NUMBER
    return Verdict(
        kind,
        reason,
        n_values=distinct.n_values,
        n_distinct=distinct.n_distinct,
        distinct=tuple(map(shown, np.sort(numbers)[:DISTINCT_LISTED])) if is_listed else (),
        is_id=is_id,
        is_numeric=True,
        is_whole=is_whole,
    )


def shown(number: np.number) -> str:
    """A number as a person writes it: 3 for 3.0."""
    if np.issubdtype(number.dtype, np.integer):
        return str(number)
    value = float(number)
    return str(int(value)) if value.is_integer() and abs(value) < 2**63 else f"{value:g}"


def _kind(distinct: Distinct, numbers: np.ndarray, is_whole: bool, rows: str, stored: str) -> tuple[Kind, bool, str]:
    low, high = shown(numbers.min()), shown(numbers.max())
    if distinct.n_distinct == 1:
        return Kind.NUMBER, False, f"always {low} in {rows}{stored}: number"
    if is_whole and set(numbers.tolist()) in _BINARY_CODES:
        return Kind.BINARY, False, f"only {low} and {high} in {rows}{stored}: binary"
    if is_whole and _are_codes(distinct, numbers):
        count = f"{distinct.n_distinct} distinct whole numbers from {low} to {high}"
        return Kind.CATEGORY, False, f"{count} in {rows}{stored}: category"
    what = "whole numbers" if is_whole else "numbers"
    if is_whole and is_sequence(distinct, numbers):
        return Kind.NUMBER, True, f"a sequence of unique whole numbers from {low} to {high} in {rows}{stored}: an id"
    return Kind.NUMBER, False, f"{what} from {low} to {high} in {rows}{stored}: number"


def _are_codes(distinct: Distinct, numbers: np.ndarray) -> bool:
    """Whole numbers without a gap that begin where codes begin, each met twice on average."""
    low, high = numbers.min(), numbers.max()
    return bool(
        distinct.n_distinct <= CODES_MAX_DISTINCT
        and distinct.share <= CATEGORY_MAX_SHARE
        and low in (-1, 0, 1)
        and high - low + 1 == distinct.n_distinct
    )


def as_float(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Numbers in a type that every function of Arrow knows: whole ones stay so, the others become float64."""
    is_wide = pa.types.is_decimal(values.type) or pa.types.is_floating(values.type)
    return pc.cast(values, pa.float64(), safe=False) if is_wide else values

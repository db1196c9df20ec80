"""Ranges of rows and tensors: exact ends, exact percentiles of rows, and those of tensors within their bound."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.errors import FormatError
from entrenar_core.quant.granularity_ranges import (
    PieceRange,
    Ranges,
    joined,
    percentile_rank,
    piece_range,
    row_ranges,
    tensor_range,
)

SHIFTS = {"both signs": 0.0, "above zero": 40.0, "below zero": -40.0}


def values_of(seed: int, shift: float = 0.0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_t(3, (7, 64)) + shift).astype(np.float32)


def at(ascending: np.ndarray, percentile: float) -> float:
    return float(ascending[math.ceil(percentile / 100 * len(ascending)) - 1])


def test_a_percentile_is_a_value_that_the_share_does_not_exceed() -> None:
    assert [percentile_rank(percentile, 10) for percentile in (100, 95, 90, 55, 50.5)] == [9, 9, 8, 5, 5]
    assert percentile_rank(51, 1) == 0


def test_the_ends_of_rows() -> None:
    values = values_of(0)
    found = row_ranges(values, None, symmetric=True)
    assert np.array_equal(found.low, values.min(axis=1).astype(np.float64))
    assert np.array_equal(found.high, values.max(axis=1).astype(np.float64))


@pytest.mark.property
@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@given(seed=st.integers(0, 2**32 - 1), percentile=st.floats(50.5, 100))
def test_percentiles_of_rows_are_exact(shift: float, seed: int, percentile: float) -> None:
    values = values_of(seed, shift)
    symmetric, each_side = (row_ranges(values, percentile, symmetric=how) for how in (True, False))
    for index, row in enumerate(values):
        limit = at(np.sort(np.abs(row)), percentile)
        assert symmetric.low[index] == max(row.min(), -limit)
        assert symmetric.high[index] == min(row.max(), limit)
        assert each_side.low[index] == -at(np.sort(-row), percentile)
        assert each_side.high[index] == at(np.sort(row), percentile)


@pytest.mark.property
@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
@given(seed=st.integers(0, 2**32 - 1), percentile=st.floats(50.5, 100))
def test_percentiles_of_tensors_are_a_little_too_wide(shift: float, seed: int, percentile: float) -> None:
    values = values_of(seed, shift)
    pieces = [piece_range(part, with_counts=True) for part in np.array_split(values, 3)]
    flat = values.reshape(-1)
    limit = at(np.sort(np.abs(flat)), percentile)
    found = tensor_range(pieces, percentile, symmetric=True)
    _check_end(float(found.high[0]), min(float(flat.max()), limit), float(flat.max()))
    _check_end(-float(found.low[0]), min(-float(flat.min()), limit), -float(flat.min()))
    found = tensor_range(pieces, percentile, symmetric=False)
    _check_end(float(found.high[0]), at(np.sort(flat), percentile), float(flat.max()))
    _check_end(-float(found.low[0]), at(np.sort(-flat), percentile), -float(flat.min()))


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_the_ninetieth_percentile_of_a_tensor_on_each_side(shift: float) -> None:
    values = values_of(1, shift)
    flat = values.reshape(-1)
    found = tensor_range([piece_range(values, with_counts=True)], 90.0, symmetric=False)
    _check_end(float(found.high[0]), at(np.sort(flat), 90.0), float(flat.max()))
    _check_end(-float(found.low[0]), at(np.sort(-flat), 90.0), -float(flat.min()))
    assert found.high[0] < flat.max()
    assert found.low[0] > flat.min()


def _check_end(found: float, exact: float, furthest: float) -> None:
    assert exact <= found <= min(furthest, exact + abs(exact) / 128 + 1e-30)


BOTH_SIGNS = [-9.0, -4.0, -3.0, -2.0, -1.0, 1.0, 2.0, 3.0, 5.0, 8.0]
POSITIVE = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0]


@pytest.mark.parametrize(
    ("row", "symmetric", "ends"),
    [
        (BOTH_SIGNS, True, (-5, 5)),  # magnitudes 1 1 2 2 3 3 4 5, 8 9
        (BOTH_SIGNS, False, (-3, 3)),
        (POSITIVE, True, (1, 8)),
        (POSITIVE, False, (3, 8)),
        ([-value for value in POSITIVE], True, (-8, -1)),
        ([-value for value in POSITIVE], False, (-8, -3)),
    ],
)
def test_the_eightieth_percentile_of_ten_values(row: list[float], symmetric: bool, ends: tuple[int, int]) -> None:
    """Two values lie beyond each end (symmetric: two magnitudes). A tensor's ends are those of the values' bins."""
    values = np.array([row], np.float32)
    found = row_ranges(np.concatenate([values, 2 * values]), 80.0, symmetric=symmetric)
    assert (found.low.tolist(), found.high.tolist()) == ([ends[0], 2 * ends[0]], [ends[1], 2 * ends[1]])
    pieces = [piece_range(part, with_counts=True) for part in (values[:, :3], values[:, 3:])]
    whole = tensor_range(pieces, 80.0, symmetric=symmetric)
    low, high = max(min(row), -from_above(-ends[0])), min(max(row), from_above(ends[1]))
    assert (whole.low.tolist(), whole.high.tolist()) == ([low], [high])


def from_above(value: float) -> float:
    """The upper end of the bin of a value of at most eight binary digits, which is the end nearer to zero itself."""
    return value + 2.0 ** (math.floor(math.log2(value)) - 7) if value > 0 else value


def test_without_percentiles_the_range_is_the_whole() -> None:
    values = values_of(4)
    found = tensor_range(
        [piece_range(values[:2], with_counts=False), piece_range(values[2:], with_counts=False)], None, symmetric=False
    )
    assert (found.low[0], found.high[0]) == (values.min(), values.max())


def test_pieces_can_be_joined_step_by_step() -> None:
    values = values_of(5)
    pieces = [piece_range(part, with_counts=True) for part in (values[:1], values[1:3], values[3:])]
    stepwise, at_once = joined([joined(pieces[:2]), pieces[2]]), piece_range(values, with_counts=True)
    assert (stepwise.low, stepwise.high) == (at_once.low, at_once.high)
    assert stepwise.counts is not None
    assert np.array_equal(stepwise.counts, at_once.counts)
    assert at_once.counts is not None
    assert at_once.counts.sum(axis=1).tolist() == [(values < 0).sum(), (values >= 0).sum()]
    assert joined([PieceRange(-1, 2), PieceRange(-3, 1)]).counts is None


def test_ranges_shrink_around_zero_or_their_middle() -> None:
    ranges = Ranges(np.array([-4.0, 2.0]), np.array([2.0, 6.0]))
    about_zero, about_middle = ranges.shrunk(0.5, symmetric=True), ranges.shrunk(0.5, symmetric=False)
    assert (about_zero.low.tolist(), about_zero.high.tolist()) == ([-2, 1], [1, 3])
    assert (about_middle.low.tolist(), about_middle.high.tolist()) == ([-2.5, 3], [0.5, 5])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_named(bad: float) -> None:
    values = values_of(6)
    values[3, 3] = bad
    with pytest.raises(FormatError, match=f"^{bad:g} has no place on a scale"):
        row_ranges(values, None, symmetric=True)
    with pytest.raises(FormatError, match=f"^{bad:g} has no place on a scale"):
        piece_range(values, with_counts=True)

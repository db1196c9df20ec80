"""The range of weights that share a scale: of each row, or of a tensor that is seen piece by piece.

A range reaches from the lowest to the highest value, or to percentiles of them: then it has all but the given share of
the values on each side (for symmetric types: of the magnitudes). Percentiles of a row are exact; those of a tensor come
from a histogram and lie at most 1/128 above the exact ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import Floats
from entrenar_core.errors import FormatError

Float64Array = npt.NDArray[np.float64]

_BIN_SHIFT = 16
_BINS = 1 << 15
"""Of magnitudes, by the upper bits of their float32: eight of the exponent and seven of the mantissa."""


@dataclass(frozen=True, eq=False)
class Ranges:
    """low and high, float64 [N]: what each of N groups of weights must be able to hold."""

    low: Float64Array
    high: Float64Array

    def shrunk(self, ratio: float, *, symmetric: bool) -> Ranges:
        """The ranges at `ratio` of their widths, around their middles or (symmetric) around zero."""
        middle = 0.0 if symmetric else (self.low + self.high) / 2
        return Ranges(middle + ratio * (self.low - middle), middle + ratio * (self.high - middle))


@dataclass(frozen=True, eq=False)
class PieceRange:
    """What a piece of a tensor adds to its range.

    counts: int64 [2, bins], how many negative and how many positive values have each magnitude; None without
    percentiles.
    """

    low: float
    high: float
    counts: npt.NDArray[np.int64] | None = None


def row_ranges(values: Floats, percentile: float | None, *, symmetric: bool) -> Ranges:
    """The range of each row of values float32 [N, in].

    Raises:
        FormatError: a value is NaN or infinite.
    """
    low, high = _finite_ends(values, axis=1)
    if percentile is None:
        return Ranges(low, high)
    last = percentile_rank(percentile, values.shape[1])
    if symmetric:
        limit = np.partition(np.abs(values), last, axis=1)[:, last].astype(np.float64)
        return Ranges(np.maximum(low, -limit), np.minimum(high, limit))
    first = values.shape[1] - 1 - last
    ordered = np.partition(values, sorted({first, last}), axis=1).astype(np.float64)
    return Ranges(np.minimum(ordered[:, first], ordered[:, last]), np.maximum(ordered[:, first], ordered[:, last]))


def piece_range(values: Floats, *, with_counts: bool) -> PieceRange:
    """What some rows of a tensor, float32 [N, in], add to its range; `with_counts` where a percentile is asked for.

    Raises:
        FormatError: a value is NaN or infinite.
    """
    low, high = _finite_ends(values, axis=None)
    counts = None
    if with_counts:
        bits = np.ascontiguousarray(values).reshape(-1).view(np.uint32) >> np.uint32(_BIN_SHIFT)
        counts = np.bincount(bits, minlength=2 * _BINS).reshape(2, _BINS)[::-1]
    return PieceRange(float(low), float(high), counts)


def joined(pieces: Iterable[PieceRange]) -> PieceRange:
    """What several pieces add together; all have counts or none has."""
    seen = list(pieces)
    counts = [one.counts for one in seen if one.counts is not None]
    return PieceRange(
        min(one.low for one in seen), max(one.high for one in seen), np.sum(counts, axis=0) if counts else None
    )


def tensor_range(pieces: Iterable[PieceRange], percentile: float | None, *, symmetric: bool) -> Ranges:
    """The range of a whole tensor, of one group, from all its pieces."""
    whole = joined(pieces)
    low, high, counts = whole.low, whole.high, whole.counts
    if percentile is not None:
        assert counts is not None, "percentiles need the counts of every piece"
        if symmetric:
            limit = _magnitude(counts.sum(axis=0), percentile)
            low, high = max(low, -limit), min(high, limit)
        else:
            # The low end is the percentile of the negated values, whose counts are swapped.
            low, high = max(low, -_end(counts[::-1], percentile)), min(high, _end(counts, percentile))
    return Ranges(np.array([low], np.float64), np.array([high], np.float64))


def _finite_ends(values: Floats, axis: int | None) -> tuple[Any, Any]:
    low, high = values.min(axis=axis), values.max(axis=axis)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        worst = values[~np.isfinite(values)][0]
        raise FormatError(
            f"{float(worst):g} has no place on a scale",
            hint="write this tensor as F32, or look for the step at which its values blew up",
        )
    return low.astype(np.float64), high.astype(np.float64)


def percentile_rank(percentile: float, count: int) -> int:
    """The place of a percentile among `count` ascending values: at least that share is not larger."""
    return max(0, math.ceil(percentile / 100 * count) - 1)


def _magnitude(counts: npt.NDArray[np.int64], percentile: float) -> float:
    """The upper edge of the bin that a percentile of the magnitudes is in."""
    reached = np.cumsum(counts)
    return _upper_edge(int(np.searchsorted(reached, percentile_rank(percentile, int(reached[-1])), side="right")))


def _end(counts: npt.NDArray[np.int64], percentile: float) -> float:
    """A percentile of the values whose counts by magnitude are counts[0] (below zero) and counts[1], from above."""
    ascending = np.concatenate([counts[0][::-1], counts[1]])
    reached = np.cumsum(ascending)
    place = int(np.searchsorted(reached, percentile_rank(percentile, int(reached[-1])), side="right"))
    return _upper_edge(place - _BINS) if place >= _BINS else -_lower_edge(_BINS - 1 - place)


def _upper_edge(index: int) -> float:
    return _lower_edge(index + 1)


def _lower_edge(index: int) -> float:
    return float((np.array([index], np.uint32) << np.uint32(_BIN_SHIFT)).view(np.float32)[0])

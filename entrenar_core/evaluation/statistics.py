"""Means, medians and percentiles with the errors that llama-perplexity states beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure and its standard error."""

    value: float
    standard_error: float


def mean_with_error(values: Float64Array) -> Estimate:
    """The mean of n values and √(variance/(n - 1)), the variance being over n; 0 for a single value."""
    count = len(values)
    error = math.sqrt(float(values.var()) / (count - 1)) if count > 1 else 0.0
    return Estimate(float(values.mean()), error)


def share_with_error(hits: int, count: int) -> Estimate:
    """hits/count and its standard error √(p(1-p)/(count - 1))."""
    share = hits / count
    return Estimate(share, math.sqrt(share * (1 - share) / (count - 1)) if count > 1 else 0.0)


def root_mean_square(values: Float64Array) -> Estimate:
    """√mean(x²); its error is that of the mean to first order."""
    squares = mean_with_error(np.square(values))
    root = math.sqrt(squares.value)
    return Estimate(root, 0.5 / root * squares.standard_error if root > 0 else 0.0)


def covariance_of_means(a: Float64Array, b: Float64Array) -> float:
    """The covariance of the means of two samples of the same n tokens: cov(a, b)/(n - 1), cov being over n."""
    count = len(a)
    if count < 2:
        return 0.0
    return float(((a - a.mean()) * (b - b.mean())).mean()) / (count - 1)


def percentiles(values: Float64Array, shares: Sequence[float]) -> dict[float, float]:
    """By share in percent, 0 the smallest and 100 the largest value; between two values linearly."""
    found = np.percentile(values, shares)
    return {share: float(value) for share, value in zip(shares, found, strict=True)}

"""What rounding costs: the error of some values, beside their size, their importance, and what training changed.

Sums are taken over pieces of rows in float64 and added in the order of the pieces, so they do not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.base import Floats


@dataclass(frozen=True)
class ErrorSums:
    """Over `count` values: squared errors, squared values, the largest error; where columns have an importance, the
    squared errors weighed by it and the sum of the weights (0: none); where it is known, squared changes by training.
    """

    count: int = 0
    squared: float = 0.0
    power: float = 0.0
    largest: float = 0.0
    weighted: float = 0.0
    weight: float = 0.0
    changed: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count,
            self.squared + other.squared,
            self.power + other.power,
            max(self.largest, other.largest),
            self.weighted + other.weighted,
            self.weight + other.weight,
            self.changed + other.changed,
        )

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return math.sqrt(self.squared / self.count) if self.count else 0.0

    @property
    def weighted_rmse(self) -> float | None:
        """The same with each column weighed by its importance; None where there is none."""
        return math.sqrt(self.weighted / self.weight) if self.weight else None

    @property
    def change_rms(self) -> float:
        """Root of the mean square of what training changed; 0 where that is not known."""
        return math.sqrt(self.changed / self.count) if self.count else 0.0

    @property
    def sqnr(self) -> float | None:
        """Signal to quantization noise in dB, 10·log10(Σx²/Σe²); None where there is no noise or no signal."""
        return 10 * math.log10(self.power / self.squared) if self.squared and self.power else None


def measure(
    values: Floats, rounded: Floats, importance: Floats | None = None, start: Floats | None = None
) -> ErrorSums:
    """The sums of some values.

    Args:
        values: float32 [R, C].
        rounded: what they were rounded to.
        importance: float32 [C].
        start: what the values were before training; None: not known.
    """
    from entrenar_core.quant.error_kernels import error_sums, weighted_error_sum  # numba loads slowly

    squared, power, largest = error_sums(values.reshape(-1), rounded.reshape(-1))
    changed = 0.0 if start is None else float(error_sums(values.reshape(-1), start.reshape(-1))[0])
    sums = ErrorSums(values.size, float(squared), float(power), float(largest), changed=changed)
    if importance is None:
        return sums
    weighted = float(weighted_error_sum(values, rounded, importance))
    weight = float(importance.sum(dtype=np.float64)) * len(values)
    return sums + ErrorSums(weighted=weighted, weight=weight)


def added_up(sums: Iterable[ErrorSums]) -> ErrorSums:
    """The sum, in the order given."""
    total = ErrorSums()
    for one in sums:
        total += one
    return total

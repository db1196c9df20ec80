"""Statistics of the inputs of a layer, column by column, over rows of tokens that are seen one after another.

Each method ends in one importance for each column: what the squared error of the weights of that column is weighed by.
The output's error is Σ_j ΔW_j·x_j, so a column counts with the size of its inputs squared: their mean square (imatrix),
or the square of a range. Everything is summed in float64 or counted in whole numbers, in the order of the rows, so the
number of threads does not matter.

    imatrix          Σ x²/n
    minmax           (largest |x|)²
    moving_average   (average over rows of tokens of the largest |x|, the past weighed by `decay`)²
    percentile       (percentile of |x|)², from a histogram: at most 1/16 above the exact percentile
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import Floats
from entrenar_core.config.quantize import Calibration
from entrenar_core.quant.granularity_ranges import percentile_rank

Float64Array = npt.NDArray[np.float64]


class ColumnStatistic(Protocol):
    """What is kept of the inputs of one layer."""

    def add(self, x: Floats) -> None:
        """See the inputs float32 [M, in] of one row of tokens; finite, M at least 1."""
        ...

    def importance(self) -> Floats:
        """float32 [in]."""
        ...


class MeanSquare:
    """Σ x² in float64 (`sums`), and how many inputs were summed (`count`)."""

    def __init__(self, n_columns: int) -> None:
        self.sums = np.zeros(n_columns, np.float64)
        self.count = 0

    def add(self, x: Floats) -> None:
        wide = x.astype(np.float64)
        self.sums += np.einsum("ij,ij->j", wide, wide)
        self.count += len(x)

    def importance(self) -> Floats:
        """With sums of float32, as a file has them: measured and read, an importance is the same to the last bit."""
        return self.sums.astype(np.float32) / np.float32(max(1, self.count))


class Extremes:
    """The lowest and the highest input of each column: float32 `low` and `high`, both [in]."""

    def __init__(self, n_columns: int) -> None:
        self.low = np.full(n_columns, np.inf, np.float32)
        self.high = np.full(n_columns, -np.inf, np.float32)

    def add(self, x: Floats) -> None:
        np.minimum(self.low, x.min(axis=0), out=self.low)
        np.maximum(self.high, x.max(axis=0), out=self.high)

    def largest(self) -> Floats:
        """The largest magnitude of each column."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def importance(self) -> Floats:
        return _squared(self.largest())


class MovingMaximum:
    """A moving average of the largest magnitude of each row of tokens; the first row begins it."""

    def __init__(self, n_columns: int, decay: float) -> None:
        self.decay = decay
        self.average: Float64Array | None = None
        self.n_columns = n_columns

    def add(self, x: Floats) -> None:
        largest = np.abs(x).max(axis=0).astype(np.float64)
        if self.average is None:
            self.average = largest
        else:
            self.average = self.decay * self.average + (1 - self.decay) * largest

    def importance(self) -> Floats:
        return _squared(np.zeros(self.n_columns) if self.average is None else self.average)


class MagnitudePercentile:
    """A histogram of the magnitudes of each column, 16 bins for each factor of two from 2⁻²⁰ to 2¹²: 2 KiB a column."""

    def __init__(self, n_columns: int, percentile: float) -> None:
        from entrenar_core.quant.observer_kernels import N_BINS

        self.percentile = percentile
        self.extremes = Extremes(n_columns)
        self.counts = np.zeros((n_columns, N_BINS), np.uint32)

    def add(self, x: Floats) -> None:
        from entrenar_core.quant.observer_kernels import count_magnitudes

        self.extremes.add(x)
        count_magnitudes(np.ascontiguousarray(x).view(np.int32), self.counts)

    def percentiles(self) -> Floats:
        """The upper edge of the bin that each column's percentile is in, if the largest magnitude is not lower."""
        from entrenar_core.quant.observer_kernels import upper_edges

        reached = np.cumsum(self.counts, axis=1, dtype=np.int64)
        rank = percentile_rank(self.percentile, int(reached[0, -1]))
        return np.minimum(upper_edges()[(reached <= rank).sum(axis=1)], self.extremes.largest())

    def importance(self) -> Floats:
        return _squared(self.percentiles())


def statistic_of(calibration: Calibration, n_columns: int) -> ColumnStatistic:
    """What a `calibration` section keeps of a layer with `n_columns` inputs."""
    match calibration.method:
        case "imatrix":
            return MeanSquare(n_columns)
        case "minmax":
            return Extremes(n_columns)
        case "moving_average":
            return MovingMaximum(n_columns, calibration.decay)
        case "percentile":
            return MagnitudePercentile(n_columns, calibration.percentile)


def _squared(magnitudes: npt.NDArray[Any]) -> Floats:
    return np.square(magnitudes.astype(np.float64)).astype(np.float32)

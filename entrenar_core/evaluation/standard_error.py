"""How far a mean over examples may be from that over all there could be."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def standard_error(values: Sequence[float] | npt.NDArray[np.float64]) -> float | None:
    """The standard error of the mean, s/√n with the sample's standard deviation s; None for fewer than two values."""
    if len(values) < 2:
        return None
    return float(np.std(np.asarray(values, np.float64), ddof=1)) / math.sqrt(len(values))

"""What rounding cost: sums over values and what they were rounded to, in double precision."""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_ZERO = np.float64(0.0)


@kernel()
def error_sums(values, rounded):
    """Two flat float32 arrays of one length: sum of squared errors, sum of squared values, largest error."""
    squared, power = _ZERO, _ZERO
    worst = np.float32(0.0)
    for i in range(values.size):
        error = rounded[i] - values[i]
        squared += np.float64(error) * np.float64(error)
        power += np.float64(values[i]) * np.float64(values[i])
        worst = max(worst, abs(error))
    return squared, power, worst


@kernel()
def weighted_error_sum(values, rounded, weights):
    """Rows float32 [R, C] and weights float32 [C]: the sum of squared errors, each weighed by its column."""
    total = _ZERO
    for row in range(values.shape[0]):
        for column in range(values.shape[1]):
            error = np.float64(rounded[row, column] - values[row, column])
            total += error * error * np.float64(weights[column])
    return total

"""A merge that is Σ cᵢ·xᵢ over whole tensors, with coefficients that are numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.passes import Combine, Floats, Inputs
from entrenar_core.stored_kernels import StoredKernel

_sum_weighted = StoredKernel("entrenar_core.merge.linear_kernels", "sum_weighted")

_BLOCK = np.array([1024], np.int64)

SMALLEST_DIVISOR = 1e-8
"""A sum of weights below this, in magnitude, is not divided by."""


def divisor_of(weights: Sequence[float]) -> float:
    """Σ wᵢ, or 1 where that is nearly zero."""
    total = sum(weights)
    return total if abs(total) >= SMALLEST_DIVISOR else 1.0


def factors_of(numbers: npt.ArrayLike) -> Floats:
    """Numbers in single precision. Beyond its range they are infinite, and so is what they multiply, which is refused
    where it would be written."""
    with np.errstate(over="ignore"):
        return np.array(numbers, np.float32)


def linear_combination(coefficients: Sequence[float], *, of_base: float | None = None) -> Combine:
    """The merge with one coefficient a model, and one of the base where there is one and it counts.

    Sums are float32, in the order of the models, the base last.
    """
    factors = factors_of(coefficients)

    def combine(inputs: Inputs, out: Floats) -> None:
        flat = out.reshape(-1)
        _sum_weighted(inputs.models.reshape(factors.size, -1), factors, flat, _BLOCK)
        if of_base is not None and inputs.base is not None:
            flat += np.float32(of_base) * inputs.base.reshape(-1)

    return combine

"""How the changes of several models become one: a weighted sum, with or without a vote on the sign of each entry.

Every method of the task-vector family is one of these after its own way of making the changes sparse.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

SMALLEST_DIVISOR = 1e-8
"""A sum of weights below this, in magnitude, is not divided by."""


def weighted_sum(deltas: Sequence[Floats], weights: Sequence[float], *, normalize: bool) -> Floats:
    """Σ wᵢ·Δᵢ; divided by Σ wᵢ with `normalize`.

    Raises:
        ValueError: no deltas, or another number of weights, or shapes that differ.
    """
    _check(deltas, weights)
    total = np.zeros(deltas[0].shape, np.float32)
    for delta, weight in zip(deltas, weights, strict=True):
        total += np.float32(weight) * delta
    divisor = sum(weights)
    if normalize and abs(divisor) >= SMALLEST_DIVISOR:
        total /= np.float32(divisor)
    return total


def voted_sum(deltas: Sequence[Floats], weights: Sequence[float], *, normalize: bool) -> Floats:
    """Σ wᵢ·Δᵢ over those entries that have the sign of the majority; with `normalize` divided by the Σ wᵢ of these.

    The majority of an entry is + if Σ wᵢ·Δᵢ ≥ 0, else −. Zeros take no part, neither in the sum nor in the divisor.

    Raises:
        ValueError: see `weighted_sum`.
    """
    positive = weighted_sum(deltas, weights, normalize=False) >= 0
    total = np.zeros(positive.shape, np.float32)
    divisor = np.zeros(positive.shape, np.float32)
    for delta, weight in zip(deltas, weights, strict=True):
        part = np.float32(weight) * delta
        agrees = np.where(positive, part > 0, part < 0)
        total += np.where(agrees, part, np.float32(0))
        divisor += np.where(agrees, np.float32(weight), np.float32(0))
    if normalize:
        divisor[divisor == 0] = 1
        total /= divisor
    return total


def _check(deltas: Sequence[Floats], weights: Sequence[float]) -> None:
    if not deltas or len(deltas) != len(weights):
        raise ValueError(f"{len(deltas)} changes with {len(weights)} weights cannot be joined")
    shapes = {delta.shape for delta in deltas}
    if len(shapes) != 1:
        raise ValueError(f"changes of shapes {sorted(shapes)} cannot be joined")

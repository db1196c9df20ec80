"""The merge methods once more, over whole arrays in plain numpy: slow, obvious, and written apart from the product.

Where a decision hangs on a sum (a vote), sums are float32 in the order of the models as the methods promise, so that
results can be compared to the bit; the rest is float64.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def keep_first(values: np.ndarray, first: int, last: int) -> np.ndarray:
    """`values` with zeros but for ranks first ... last - 1, by falling magnitude; of equal ones the first in memory."""
    flat = values.reshape(-1)
    order = np.argsort(-np.abs(flat), kind="stable")
    kept = np.zeros_like(flat)
    kept[order[first:last]] = flat[order[first:last]]
    return kept.reshape(values.shape)


def voted_sum(changes: Sequence[np.ndarray], weights: Sequence[float], normalize: bool) -> np.ndarray:
    """Σ wᵢΔᵢ over the entries of the elected sign; float32."""
    parts = [np.float32(weight) * change for weight, change in zip(weights, changes, strict=True)]
    elected = np.zeros_like(parts[0])
    for part in parts:
        elected = elected + part
    total, divisor = np.zeros_like(parts[0]), np.zeros_like(parts[0])
    for part, weight in zip(parts, weights, strict=True):
        agrees = np.where(elected >= 0, part > 0, part < 0)
        total = total + np.where(agrees, part, np.float32(0))
        divisor = divisor + np.where(agrees, np.float32(weight), np.float32(0))
    return total / np.where(divisor == 0, np.float32(1), divisor) if normalize else total


def plain_sum(changes: Sequence[np.ndarray], weights: Sequence[float], normalize: bool) -> np.ndarray:
    """Σ wᵢΔᵢ, divided by Σ wᵢ if wanted; float64."""
    total = sum(weight * change.astype(np.float64) for weight, change in zip(weights, changes, strict=True))
    divisor = sum(weights) if normalize and abs(sum(weights)) >= 1e-8 else 1.0
    return np.asarray(total) / divisor


def slerp(first: np.ndarray, second: np.ndarray, t: float) -> np.ndarray:
    """float64, by turning the first vector in the plane of both."""
    a, b = first.astype(np.float64).reshape(-1), second.astype(np.float64).reshape(-1)
    if not a.any() or not b.any():
        return ((1 - t) * a + t * b).reshape(first.shape)
    unit_a, unit_b = a / np.linalg.norm(a), b / np.linalg.norm(b)
    cos = float(np.clip(unit_a @ unit_b, -1, 1))
    if abs(cos) > 0.9995:
        return ((1 - t) * a + t * b).reshape(first.shape)
    angle = np.arccos(cos)
    return ((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)).reshape(first.shape)

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
    unit_a, unit_b = a / (np.linalg.norm(a) or 1), b / (np.linalg.norm(b) or 1)
    cos = float(np.clip(unit_a @ unit_b, -1, 1))
    if abs(cos) > 0.9995:
        return ((1 - t) * a + t * b).reshape(first.shape)
    angle = np.arccos(cos)
    return ((np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)).reshape(first.shape)


def karcher(vectors: Sequence[np.ndarray], steps: int = 10) -> np.ndarray:
    """float64, over the vectors themselves: steps along the mean of the logarithms, from the mean direction."""
    flat = np.array([vector.astype(np.float64).reshape(-1) for vector in vectors])
    norms = np.linalg.norm(flat, axis=1)
    units = flat / norms[:, None]
    mean = units.mean(axis=0) / np.linalg.norm(units.mean(axis=0))
    for _ in range(steps):
        logarithms = []
        for unit in units:
            across = unit - (unit @ mean) * mean
            angle = np.arctan2(np.linalg.norm(across), unit @ mean)
            logarithms.append(angle * across / (np.linalg.norm(across) or 1))
        step = np.mean(logarithms, axis=0)
        length = np.linalg.norm(step)
        if length < 1e-5:
            break
        mean = np.cos(length) * mean + np.sin(length) * step / length
    return (mean * norms.mean()).reshape(vectors[0].shape)


def sce(changes: Sequence[np.ndarray], select_topk: float) -> np.ndarray:
    """What is added to the base; the vote is exact for whole numbers, the rest float64."""
    stacked = np.array(changes, np.float64)
    if select_topk < 1:
        variance = stacked.var(axis=0)
        variance[(stacked == stacked[0]).all(axis=0)] = 0
        count = min(np.count_nonzero(variance), max(1, int(select_topk * np.count_nonzero(variance))))
        stacked = stacked * (keep_first(variance.astype(np.float32), 0, count) > 0)
    weights = (stacked**2).reshape(len(stacked), -1).mean(axis=1)
    weights = weights / weights.sum() if weights.sum() >= 1e-6 else np.full(len(stacked), 1 / len(stacked))
    agrees = np.where(stacked.sum(axis=0) >= 0, stacked > 0, stacked < 0) * weights.reshape(-1, *[1] * changes[0].ndim)
    return np.asarray((stacked * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1e-6))

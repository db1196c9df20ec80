"""By how much a value may move in blocks of evenly spaced codes, derived from the formats.

A scale stored as float16 is off by at most 2^-11 of itself, or by 2^-25 where it is subnormal; a value of k steps moves
by k times as much. Blocks are float64 [N, size]; a bound is that of each value, [N, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

HALF_UNIT = 2.0**-11
SMALLEST_HALF_UNIT = 2.0**-25
SLACK = 1.0 + 2.0**-20
"""For the few float32 roundings on the way."""


def symmetric_bound(blocks: np.ndarray, levels: int, steps: float = 0.5) -> np.ndarray:
    """`steps` of largest/levels, and what float16 does to a scale, `levels` times over."""
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    return steps * largest / levels + np.maximum(largest * HALF_UNIT, levels * SMALLEST_HALF_UNIT)


def range_bound(blocks: np.ndarray, levels: int) -> np.ndarray:
    """Half a step of range/levels, and what float16 does to the scale and to the minimum."""
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    scale = np.maximum((high - low) * HALF_UNIT, levels * SMALLEST_HALF_UNIT)
    rounding = 2.0**-23 * (np.abs(low) + high - low)  # the decoder's own sum
    return 0.5 * (high - low) / levels + scale + np.maximum(np.abs(low) * HALF_UNIT, SMALLEST_HALF_UNIT) + rounding


HALF_STEP: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "Q4_0": lambda blocks: symmetric_bound(blocks, 8),
    "Q5_0": lambda blocks: symmetric_bound(blocks, 16),
    "Q8_0": lambda blocks: symmetric_bound(blocks, 127),
    "Q4_1": lambda blocks: range_bound(blocks, 15),
    "Q5_1": lambda blocks: range_bound(blocks, 31),
}
"""The largest error of a value that the codes of its block reach: half a step, and what float16 does."""

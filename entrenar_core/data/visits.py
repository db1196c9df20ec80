"""How often each source is visited in an epoch: its weight times its examples, spread evenly over the epochs.

A weight of 2 visits every example twice. A weight of 0.5 visits half of them, the other half in the next epoch, in a
seeded order that stays the same, so that in the long run all are visited equally often.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entrenar_core.data.order import Int64Array, Purpose, permutation


def visits(bounds: Int64Array, weights: Sequence[float], *, seed: int, epoch: int) -> Int64Array:
    """The examples of one epoch, int64, source by source, each in the order of its data.

    Args:
        bounds: int64 [sources + 1]; source i has the examples bounds[i] to bounds[i + 1].
        weights: one positive number a source.
    """
    parts = []
    for index, weight in enumerate(weights):
        start, count = int(bounds[index]), int(bounds[index + 1] - bounds[index])
        chosen = _of_source(count, weight, seed=seed + index, epoch=epoch)
        parts.append(start + np.sort(chosen))
    return np.concatenate(parts)


def _of_source(count: int, weight: float, *, seed: int, epoch: int) -> Int64Array:
    """`weight`·`count` of the numbers 0..count-1, going on where the last epoch ended."""
    total = visit_count(count, weight)
    if total == count:
        return np.arange(count, dtype=np.int64)
    order = permutation(count, seed=seed, epoch=0, purpose=Purpose.SOURCE)
    return order[(epoch * total + np.arange(total)) % max(count, 1)]


def visit_count(count: int, weight: float) -> int:
    """Visits an epoch makes to a source of `count` things; at least one where there is one."""
    return max(round(weight * count), min(count, 1))

"""Which entries of a change are kept before models are joined."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


def keep_largest(delta: Floats, density: float) -> Floats:
    """`delta` with all but its largest entries set to zero (the trim of Yadav et al. 2023).

    ⌊density·n⌋ entries of largest magnitude stay, and at least one; of equal ones the first in memory order. With a
    density of 1 or more it is `delta` itself.

    Raises:
        ValueError: the density is not above 0.
    """
    count = kept_count(delta.size, density)
    if count >= delta.size:
        return delta
    flat = delta.reshape(-1)
    magnitude = np.abs(flat)
    border = np.partition(magnitude, delta.size - count)[delta.size - count]
    kept = magnitude > border
    missing = count - np.count_nonzero(kept)
    kept[np.flatnonzero(magnitude == border)[:missing]] = True
    return np.where(kept, flat, np.float32(0)).reshape(delta.shape)


def kept_count(n_values: int, density: float) -> int:
    """How many of `n_values` entries a density keeps."""
    if not density > 0:
        raise ValueError(f"density {density} keeps nothing: it must be above 0")
    return min(n_values, max(1, int(density * n_values)))

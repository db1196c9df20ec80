"""Seeded orders that depend on (seed, epoch, purpose) and on nothing else: not on earlier calls, not on threads.

A permutation sorts by 64-bit keys of a Philox counter. NumPy promises that raw stream for ever (it does not promise
`Generator.permutation`), so that a resumed run finds its place again under another NumPy version.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]

GROUP_BATCHES = 50
"""Batches in a window of `group_by_length`: little padding, and the order is still random at large."""

_WORD = 0xFFFFFFFF


class Purpose(IntEnum):
    """What a permutation is for; two purposes never share random numbers."""

    EXAMPLES = 1
    ROWS = 2
    VALIDATION = 3
    SOURCE = 4
    STREAM = 5


def permutation(n: int, *, seed: int, epoch: int, purpose: Purpose) -> Int64Array:
    """A random order of 0..n-1, int64 [n]. `seed` is a non-negative 64-bit number."""
    return np.argsort(_keys(n, seed, epoch, purpose), kind="stable").astype(np.int64)


def uniforms(n: int, *, seed: int, epoch: int, purpose: Purpose) -> npt.NDArray[np.float64]:
    """Random numbers in [0, 1), float64 [n]; see `permutation`."""
    return np.asarray((_keys(n, seed, epoch, purpose) >> np.uint64(11)) * 2.0**-53, dtype=np.float64)


def _keys(n: int, seed: int, epoch: int, purpose: Purpose) -> npt.NDArray[np.uint64]:
    words = [seed & _WORD, seed >> 32, epoch, int(purpose)]
    return np.random.Philox(np.random.SeedSequence(words)).random_raw(n)


def group_by_length(order: Int64Array, lengths: Int64Array, batch_size: int) -> Int64Array:
    """Sort by length inside windows of `GROUP_BATCHES` batches of `order`, so that a batch has rows of one length."""
    window = GROUP_BATCHES * batch_size
    parts = [order[begin : begin + window] for begin in range(0, len(order), window)]
    return np.concatenate([part[np.argsort(lengths[part], kind="stable")] for part in parts])


def shuffle_batches(order: Int64Array, batch_size: int, *, seed: int, epoch: int) -> Int64Array:
    """Permute whole batches of `order`; an incomplete last one stays last."""
    full = len(order) // batch_size
    batches = order[: full * batch_size].reshape(full, batch_size)
    shuffled = batches[permutation(full, seed=seed, epoch=epoch, purpose=Purpose.ROWS)]
    return np.concatenate([shuffled.reshape(-1), order[full * batch_size :]])

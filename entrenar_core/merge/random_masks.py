"""Random masks that depend on the seed, the model and the tensor alone, not on threads, pieces or the order of work.

An element's 32 bits are output i of a SplitMix64 generator, where i is its index in the tensor.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.densities import check_density

_GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1


def mask_key(seed: int, model: int, tensor: str) -> int:
    """64 bits that tell the draws of one tensor of one model from all others."""
    key = f"{seed}\0{model}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little")


def state_at(key: int, element: int) -> int:
    """The generator's state for an element of the tensor; that of the next one is larger by a constant."""
    return (key + (element + 1) * _GOLDEN) & _WORD


def threshold(density: float) -> int:
    """Below what 32 random bits keep an element."""
    return round(min(check_density(density), 1.0) * 2**32)


def draws(key: int, first: int, count: int) -> npt.NDArray[np.uint64]:
    """The 32 random bits of some elements of a tensor in a row, uint64 [count]."""
    z = np.uint64(state_at(key, first)) + np.arange(count, dtype=np.uint64) * np.uint64(_GOLDEN)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))) >> np.uint64(32)

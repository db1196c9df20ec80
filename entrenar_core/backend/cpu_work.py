"""How the CPU backend shares the work of one kernel out: rows, elements or blocks of an array over its threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from entrenar_core.backend.cpu_arguments import contiguous, like, writable
from entrenar_core.backend.pool import Pool
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

GRAIN = 16384
"""Elements per thread below which a simple kernel runs on the caller: about 5 µs of work."""

_REDUCTION_BLOCK = 1 << 16


class SharedWork:
    """Threads, the pool that results come from, and the ways to cut an array."""

    def __init__(self, threads: Threads, pool: Pool) -> None:
        self.threads = threads
        self.pool = pool

    def _elementwise(self, operation: np.ufunc, a: NDArray, b: NDArray | np.float32, out: NDArray | None) -> NDArray:
        a = contiguous(a)
        if isinstance(b, np.ndarray):
            b = like(operation.__name__, b, a).reshape(-1)
        target = self.pool.empty(a.shape) if out is None else like(operation.__name__, writable("out", out), a)
        self.threads.run(_apply_ufunc, a.size, operation, a.reshape(-1), b, target.reshape(-1), grain=2 * GRAIN)
        return target

    def _over_elements(self, function: Callable[..., None], name: str, *inputs: NDArray) -> NDArray:
        flat = [like(name, each, inputs[0]).reshape(-1) for each in inputs]
        y = self.pool.empty(inputs[0].shape)
        self.threads.run(function, y.size, *flat, y.reshape(-1), grain=GRAIN)
        return y

    def _over_rows(self, function: Callable[..., None], x: NDArray, *args: Any) -> None:
        if x.ndim != 2:
            raise ValueError(f"{function.__name__}: {x.shape} is not [M, N]")
        self.threads.run(function, x.shape[0], x, *args, grain=grain(x.shape[1]))

    def _reduce_blocks(self, function: Callable[..., None], array: NDArray, dtype: Any) -> NDArray:
        n_blocks = -(-array.size // _REDUCTION_BLOCK)
        results = np.empty(n_blocks, dtype)
        self.threads.run(function, n_blocks, contiguous(array).reshape(-1), results, _REDUCTION_BLOCK)
        return results


def grain(row_size: int) -> int:
    """Rows of this many elements that are worth a thread of their own."""
    return -(-GRAIN // max(row_size, 1))


def _apply_ufunc(operation: np.ufunc, a: NDArray, b: NDArray | np.float32, out: NDArray, start: int, stop: int) -> None:
    operation(a[start:stop], b[start:stop] if isinstance(b, np.ndarray) else b, out=out[start:stop])

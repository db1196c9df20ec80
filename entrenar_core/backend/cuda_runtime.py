"""What the CUDA backend asks of a device: memory, launches, matrix products. `CupyRuntime` asks CuPy for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_source import Kernel

Grid = tuple[int, int, int]


class Runtime(Protocol):
    """A device that runs the kernel files. Work is queued in order on one stream; only what reads on the host waits."""

    xp: Any
    bfloat16: np.dtype[Any]

    def empty(self, shape: Sequence[int], dtype: Any) -> Array: ...

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array: ...

    def to_device(self, values: np.ndarray) -> Array:
        """A copy on the device."""
        ...

    def to_host(self, array: Array) -> np.ndarray: ...

    def address(self, array: Array) -> int:
        """Where the array's elements begin in the memory of the device."""
        ...

    def launch(self, kernel: Kernel, grid: Grid, n_threads: int, arguments: Sequence[Any], shared_bytes: int) -> None:
        """Run `kernel` on a grid of blocks of n_threads; arguments as `Kernel.checked` gives them."""
        ...

    def gemm(self, a: Array, b: Array, out: Array, alpha: float, beta: float) -> None:
        """out = alpha·a@b + beta·out, accumulated in float32.

        a and b are of one dtype, `out` is of the same or float32. All are [M, N], or [batch, M, N] where a batch axis
        may have any stride; of the last two axes one must have stride 1 (of `out`: the last). With beta 0, `out` is
        not read. No size is 0.
        """
        ...

    def environment(self) -> dict[str, str]:
        """The device and the libraries that compute on it, by name."""
        ...

    def free_bytes(self) -> int:
        """Memory of the device that nobody holds, this process included."""
        ...

    def peak_bytes(self) -> int:
        """The most memory of the device that was held so far, free pieces for later arrays included."""
        ...

    def synchronize(self) -> None:
        """Wait for all work queued so far."""
        ...

    def close(self) -> None: ...

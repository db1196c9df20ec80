"""Backends that allocate and do not compute: what a run's arrays take is found out without touching their memory.

The CPU backend runs with threads that do nothing. The CUDA backend runs on a device that does nothing, whose memory is
address space of this process: buffers are what CuPy's pool would be asked for, to the byte.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_runtime import Grid
from entrenar_core.backend.cuda_source import Kernel
from entrenar_core.backend.pool import Pool
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Idle:
    """A backend that does not compute, and the pool that its arrays come from.

    Weights of a device are in its pool; those of the CPU are not. CuPy's pool cuts free pieces to what is asked for, so
    on a device the most that was alive is what is held; the CPU's pool keeps sizes apart.
    """

    backend: Backend
    pool: Pool
    is_device: bool

    def weight(self, shape: Sequence[int]) -> NDArray:
        """Memory for a weight in float32, which nobody touches."""
        weight: NDArray = self.backend.empty(shape) if self.is_device else np.empty(shape, np.float32)
        return weight

    def held(self) -> int:
        """The most bytes that the pool will have held."""
        return self.pool.statistics().peak if self.is_device else self.pool.statistics().held


def idle_cpu(threads: int | None) -> Idle:
    """The CPU backend with a budget of threads, for which scratch memory is allotted."""
    backend = IdleCpu(threads)
    return Idle(backend, backend.pool, is_device=False)


def idle_cuda(compute_dtype: str) -> Idle:
    """The CUDA backend for activations of this type.

    Raises:
        ImportError: bfloat16 without ml_dtypes.
    """
    runtime = IdleRuntime()
    return Idle(IdleCuda(runtime, compute_dtype), runtime.pool, is_device=True)


class IdleThreads(Threads):
    """A thread budget that nobody works."""

    def __init__(self, count: int) -> None:
        self.count = count

    def run(self, function: Callable[..., None], n_rows: int, *args: Any, grain: int = 1) -> None:
        del function, n_rows, args, grain

    def run_tasks(self, function: Callable[..., None], n_tasks: int, *args: Any) -> None:
        del function, n_tasks, args

    def close(self) -> None:
        """There is nothing to end."""


class IdleCpu(CpuBackend):
    """The CPU backend whose kernels are called by nobody; rows that NumPy would copy come from the pool too."""

    def __init__(self, threads: int | None) -> None:
        super().__init__(threads)
        self.threads.close()
        self.threads = IdleThreads(self.n_threads)

    def take_rows(self, x: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        return self.pool.empty((len(rows), *x.shape[1:]))

    def put_rows(self, rows: np.ndarray[Any, Any], values: np.ndarray[Any, Any], out: np.ndarray[Any, Any]) -> None:
        del rows, values, out

    def all_finite(self, array: np.ndarray[Any, Any]) -> bool:
        """What nobody has computed is taken to be so."""
        del array
        return True


class IdleRuntime:
    """A device on which nothing runs. What is copied to it takes room there, and its values are forgotten."""

    def __init__(self) -> None:
        import ml_dtypes

        self.pool = Pool()
        self.xp: Any = np
        self.bfloat16 = np.dtype(ml_dtypes.bfloat16)

    def empty(self, shape: Sequence[int], dtype: Any) -> NDArray:
        if dtype == self.bfloat16:  # which the interface of arrays has no name for
            return self.pool.empty(shape, np.uint16).view(dtype)
        return self.pool.empty(shape, dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> NDArray:
        return self.empty(shape, dtype)

    def to_device(self, values: NDArray) -> NDArray:
        return self.empty(values.shape, values.dtype)

    def to_host(self, array: NDArray) -> NDArray:
        return array

    def address(self, array: NDArray) -> int:
        return int(array.ctypes.data)

    def launch(self, kernel: Kernel, grid: Grid, n_threads: int, arguments: Sequence[Any], shared_bytes: int) -> None:
        """Nothing runs."""

    def gemm(self, a: NDArray, b: NDArray, out: NDArray, alpha: float, beta: float) -> None:
        """Nothing is multiplied."""

    def environment(self) -> dict[str, str]:
        return {}

    def free_bytes(self) -> int:
        """Address space, of which there is enough."""
        return 1 << 46

    def peak_bytes(self) -> int:
        return self.pool.statistics().held

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def close(self) -> None:
        self.pool.trim()


class IdleCuda(CudaBackend):
    """The CUDA backend whose numbers nobody has computed."""

    def launch(
        self, file: str, name: str, grid: Sequence[int], *arguments: Any, element: Any = None, threads: int = 0
    ) -> None:
        """Nothing runs."""

    def all_finite(self, array: NDArray) -> bool:
        """What nobody has computed is taken to be so."""
        del array
        return True

"""`Runtime` on an NVIDIA GPU: CuPy's memory pool, streams and modules, and cuBLAS through it.

Everything runs on CuPy's current stream, in order. A copy to the GPU goes through pinned memory, so that the host goes
on at once; only large ones, which are weights, are worth waiting for.
"""

from __future__ import annotations

import ctypes
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_compile import architecture_of, kept_kernels
from entrenar_core.backend.cuda_gemm import Operand, gemm_arguments
from entrenar_core.backend.cuda_runtime import Grid
from entrenar_core.backend.cuda_source import Kernel, kernel_file
from entrenar_core.errors import DeviceMemoryError

_PINNED_AT_MOST = 16 * 2**20
"""Bytes of one copy through pinned memory, which the system cannot use for anything else while CuPy keeps it."""

_ACCUMULATE_IN_FLOAT32 = 16
"""CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION: partial sums of bfloat16 products are not rounded to bfloat16."""

_LESS_MEMORY = (
    "lower data.batch_size (and raise training.grad_accum) or data.seq_len, set `training.activation_checkpointing:"
    " true` or `training.compute_dtype: bfloat16`, or train an adapter (`lora:`) over a base in 4 bits"
    " (`quantize: {bits: 4}`)"
)


@dataclass(frozen=True)
class DeviceMemory:
    """Bytes: what arrays take, what is held for them and later ones, the most that was held, and what the device has
    free and in all."""

    in_use: int
    held: int
    peak: int
    free: int
    total: int


class CupyRuntime:
    """`Runtime` on the first GPU that CUDA shows; CUDA_VISIBLE_DEVICES chooses which that is.

    Attributes:
        capability: compute capability, 90 for 9.0.
    """

    def __init__(self) -> None:
        import cupy
        import ml_dtypes
        from cupy_backends.cuda.libs import cublas

        self.xp = cupy
        self.bfloat16 = np.dtype(ml_dtypes.bfloat16)
        self.capability = int(cupy.cuda.Device().compute_capability)
        self._architecture = architecture_of(self.capability)
        self._modules: dict[tuple[str, str], Any] = {}
        self._functions: dict[tuple[str, str, str], Any] = {}
        self._shared_bytes: dict[tuple[str, str, str], int] = {}
        self._under_way: deque[tuple[Any, Any]] = deque()
        self._blas: int | None = cublas.create()
        cublas.setMathMode(self._blas, cublas.CUBLAS_DEFAULT_MATH | _ACCUMULATE_IN_FLOAT32)
        self._cublas = cublas
        self._cuda_types = {"float32": cupy.cuda.runtime.CUDA_R_32F, "bfloat16": cupy.cuda.runtime.CUDA_R_16BF}
        self._pool = cupy.get_default_memory_pool()
        self._peak = self._pool.total_bytes()
        self._allocator_before = cupy.cuda.get_allocator()
        cupy.cuda.set_allocator(self._allocate)

    # memory

    def empty(self, shape: Sequence[int], dtype: Any) -> Array:
        return self.xp.empty(tuple(shape), dtype)

    def zeros(self, shape: Sequence[int], dtype: Any) -> Array:
        return self.xp.zeros(tuple(shape), dtype)

    def to_device(self, values: np.ndarray) -> Array:
        values = np.asarray(values, order="C")
        array = self.empty(values.shape, values.dtype)
        if values.nbytes > _PINNED_AT_MOST:
            array.data.copy_from_host(values.ctypes.data, values.nbytes)
        elif values.nbytes:
            self._copy_through_pinned(values, array)
        return array

    def _copy_through_pinned(self, values: np.ndarray, array: Array) -> None:
        """Queue the copy; its pinned memory is kept until the device has read it."""
        pinned = self.xp.cuda.alloc_pinned_memory(values.nbytes)
        ctypes.memmove(pinned.ptr, values.ctypes.data, values.nbytes)
        array.data.copy_from_host_async(pinned.ptr, values.nbytes)
        self._under_way.append((self.xp.cuda.get_current_stream().record(), pinned))
        while self._under_way and self._under_way[0][0].done:
            self._under_way.popleft()

    def to_host(self, array: Array) -> np.ndarray:
        values = np.empty(array.shape, array.dtype)
        if array.size:
            array.get(out=values)
        return values

    def stream(self) -> int:
        """The address of the stream that everything runs on."""
        return int(self.xp.cuda.get_current_stream().ptr)

    def address(self, array: Array) -> int:
        return int(array.data.ptr)

    def environment(self) -> dict[str, str]:
        properties = self.xp.cuda.runtime.getDeviceProperties(self.xp.cuda.Device().id)
        cublas = self._cublas.getVersion(self._blas)
        return {"gpu": properties["name"].decode(), "cupy": self.xp.__version__, "cublas": str(cublas)}

    def memory(self) -> DeviceMemory:
        free, total = self.xp.cuda.runtime.memGetInfo()
        return DeviceMemory(self._pool.used_bytes(), self._pool.total_bytes(), self._peak, free, total)

    def free_bytes(self) -> int:
        free, _ = self.xp.cuda.runtime.memGetInfo()
        return int(free)

    def peak_bytes(self) -> int:
        return self._peak

    def _allocate(self, n_bytes: int) -> Any:
        """CuPy's allocator as long as this runtime lives: its pool, whose largest size is kept.

        Raises:
            DeviceMemoryError: there is no room.
        """
        try:
            memory = self._pool.malloc(n_bytes)
        except self.xp.cuda.memory.OutOfMemoryError as error:
            raise self._no_room(n_bytes) from error
        self._peak = max(self._peak, self._pool.total_bytes())
        return memory

    def _no_room(self, n_bytes: int) -> DeviceMemoryError:
        memory = self.memory()
        idle = memory.held - memory.in_use
        unused = f" ({_size(idle)} of it in pieces that are too small)" if idle else ""
        return DeviceMemoryError(
            f"the GPU has no room for {_size(n_bytes)} more: of its {_size(memory.total)} {_size(memory.free)} are"
            f" free, and this run holds {_size(memory.held)}{unused}",
            hint=_LESS_MEMORY,
        )

    # kernels

    def launch(self, kernel: Kernel, grid: Grid, n_threads: int, arguments: Sequence[Any], shared_bytes: int) -> None:
        key = (kernel.file, kernel.element, kernel.name)
        function = self._functions.get(key) or self._load(kernel)
        if shared_bytes > self._shared_bytes.get(key, 0):  # above 48 KiB only a kernel that was allowed to gets them
            driver = self.xp.cuda.driver
            driver.funcSetAttribute(function.ptr, driver.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, shared_bytes)
            self._shared_bytes[key] = shared_bytes
        ndarray = self.xp.ndarray
        values = [argument.data if isinstance(argument, ndarray) else argument for argument in arguments]
        function(grid, (n_threads, 1, 1), values, shared_mem=shared_bytes)

    def _load(self, kernel: Kernel) -> Any:
        """The kernel as a function of the driver; its file is compiled if the user's cache does not hold it."""
        where = (kernel.file, kernel.element)
        if where not in self._modules:
            module = self.xp.cuda.Module()
            module.load(kept_kernels(kernel_file(kernel.file), kernel.element, self._architecture))
            self._modules[where] = module
        function = self._modules[where].get_function(kernel.name)
        self._functions[(*where, kernel.name)] = function
        return function

    # products

    def gemm(self, a: Array, b: Array, out: Array, alpha: float, beta: float) -> None:
        blas, said, factors = self._cublas, gemm_arguments(a, b, out), _factors(alpha, beta)
        is_batch = said.batch > 1
        first = self._operand(b, said.first, is_batch)
        second = self._operand(a, said.second, is_batch)
        result = self._operand(out, said.result, is_batch)
        ops = [blas.CUBLAS_OP_T if each.transposed else blas.CUBLAS_OP_N for each in (said.first, said.second)]
        alpha_at, beta_at = factors.ctypes.data, factors.ctypes.data + factors.itemsize
        arguments = (self._blas, *ops, said.m, said.n, said.k, alpha_at, *first, *second, beta_at, *result)
        if is_batch:
            blas.gemmStridedBatchedEx(*arguments, said.batch, blas.CUBLAS_COMPUTE_32F, blas.CUBLAS_GEMM_DEFAULT)
        else:
            blas.gemmEx(*arguments, blas.CUBLAS_COMPUTE_32F, blas.CUBLAS_GEMM_DEFAULT)

    def _operand(self, array: Array, layout: Operand, is_batch: bool) -> tuple[int, ...]:
        """Address, type and strides, of which cuBLAS takes one more for a batch."""
        found = (array.data.ptr, self._cuda_types[array.dtype.name], layout.leading)
        return (*found, layout.batch_stride) if is_batch else found

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def close(self) -> None:
        """Give the memory back that no array holds any more, and CuPy its allocator."""
        if self._blas is None:
            return
        self.synchronize()
        self._under_way.clear()
        self._cublas.destroy(self._blas)
        self._blas = None
        self.xp.cuda.set_allocator(self._allocator_before)
        self._pool.free_all_blocks()


@lru_cache(maxsize=256)
def _factors(alpha: float, beta: float) -> np.ndarray:
    """alpha and beta where cuBLAS reads them, on the host."""
    return np.array([alpha, beta], np.float32)


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.1f} MiB"

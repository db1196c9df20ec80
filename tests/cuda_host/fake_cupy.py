"""The part of CuPy that `CupyRuntime` uses, with the host for a GPU; a name that is not here is an error there.

Signatures are those of CuPy 14.2: the argument types too, where Cython would refuse others. The memory is a
`HostRuntime`'s, the kernels are compiled by a C++ compiler, and cuBLAS is `column_major`.
"""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable, Sequence
from types import ModuleType, SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from entrenar_core.backend.cuda_source import kernel
from tests.cuda_host import host_runtime
from tests.cuda_host.column_major import gemm_strided_batched
from tests.cuda_host.device_array import DeviceArray, HostModule
from tests.cuda_host.host_stream import PinnedMemory, Pointer, stream

GIB = 2**30
DTYPES = {0: np.dtype(np.float32), 14: np.dtype(ml_dtypes.bfloat16)}
"""By cudaDataType: CUDA_R_32F and CUDA_R_16BF of library_types.h."""


class OutOfMemoryError(MemoryError):
    """`cupy.cuda.memory.OutOfMemoryError`."""


class FakePool:
    """A memory pool that keeps all it ever had; `limit` bytes are there."""

    def __init__(self) -> None:
        self.limit = GIB
        self.host = host_runtime.HostRuntime()

    def malloc(self, n_bytes: int) -> DeviceArray:
        if self.host.in_use + n_bytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {n_bytes} bytes")
        return self.host.empty((n_bytes,), np.uint8)

    def total_bytes(self) -> int:
        return self.host.peak_bytes()

    def used_bytes(self) -> int:
        return self.host.in_use

    def free_all_blocks(self) -> None:
        self.host._peak = self.host.in_use


class FakeModule:
    """`cupy.cuda.Module`: a loaded file. Its image names the file and the element, see `install`."""

    def load(self, image: bytes) -> None:
        assert type(image) is bytes
        self._file, self._element = image.decode().split(":")

    def get_function(self, name: str) -> FakeFunction:
        return FakeFunction(self._file, self._element, name)


class FakeFunction:
    """`cupy.cuda.Function`. A launch that asks for more shared memory than was granted fails, as on a GPU."""

    def __init__(self, file: str, element: str, name: str) -> None:
        self._library = host_runtime.library(file, element)
        self._kernel = kernel(file, name, element)
        self.shared_bytes = 48 * 1024
        self.ptr = id(self)

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], args: Sequence[Any], shared_mem: int = 0) -> None:
        assert type(grid) is tuple and type(block) is tuple and block[1:] == (1, 1)
        assert shared_mem <= self.shared_bytes, "CUDA_ERROR_INVALID_VALUE"
        assert all(arg is None or isinstance(arg, Pointer | np.generic) for arg in args), args
        stream.synchronize()
        host_runtime.run(self._library, self._kernel, grid, block[0], args, shared_mem)


class FakeCublas(ModuleType):
    """`cupy_backends.cuda.libs.cublas` on one handle."""

    CUBLAS_OP_N, CUBLAS_OP_T = 0, 1
    CUBLAS_DEFAULT_MATH, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT = 0, 68, -1

    def __init__(self) -> None:
        super().__init__("cupy_backends.cuda.libs.cublas")
        self.handles: set[int] = set()
        self.math_mode = 0
        self.calls: list[str] = []

    def create(self) -> int:
        self.handles.add(7)
        return 7

    def destroy(self, handle: int) -> None:
        self.handles.remove(handle)

    def getVersion(self, handle: int) -> int:
        assert handle in self.handles
        return 130201

    def setMathMode(self, handle: int, mode: int) -> None:
        self.math_mode = mode

    def gemmEx(
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, B, Btype, ldb, beta, C, Ctype, ldc, compute, algo
    ) -> None:
        self.calls.append("gemmEx")
        first, second, result = (A, Atype, lda, 0), (B, Btype, ldb, 0), (C, Ctype, ldc, 0)
        self._gemm(handle, transa, transb, (m, n, k), alpha, first, second, beta, result, 1, compute, algo)

    def gemmStridedBatchedEx(
        self, handle, transa, transb, m, n, k, alpha, A, Atype, lda, strideA, B, Btype, ldb, strideB, beta, C, Ctype,
        ldc, strideC, batchCount, compute, algo,
    ) -> None:  # fmt: skip
        self.calls.append("gemmStridedBatchedEx")
        first, second, result = (A, Atype, lda, strideA), (B, Btype, ldb, strideB), (C, Ctype, ldc, strideC)
        self._gemm(handle, transa, transb, (m, n, k), alpha, first, second, beta, result, batchCount, compute, algo)

    def _gemm(self, handle, transa, transb, sizes, alpha, first, second, beta, result, batch, compute, algo) -> None:
        assert handle in self.handles and (compute, algo) == (68, -1) and self.math_mode == 16
        assert first[1] == second[1] and result[1] in (0, first[1])
        stream.synchronize()
        m, n, k = sizes
        a = _elements(*first, *((k, m) if transa else (m, k)), batch)
        b = _elements(*second, *((n, k) if transb else (k, n)), batch)
        c = _elements(*result, m, n, batch)
        (alpha,), (beta,) = ((ctypes.c_float * 1).from_address(each) for each in (alpha, beta))
        gemm_strided_batched(
            bool(transa), bool(transb), m, n, k, alpha, a, *first[2:], b, *second[2:], beta, c, *result[2:], batch
        )


def _elements(address: int, cuda_type: int, leading: int, stride: int, rows: int, columns: int, batch: int):
    """The memory of a batch of matrices in columns, and nothing beyond it."""
    count = (batch - 1) * stride + (columns - 1) * leading + rows
    dtype = DTYPES[cuda_type]
    return np.frombuffer((ctypes.c_char * (count * dtype.itemsize)).from_address(address), dtype, count)


class FakeCupy(HostModule):
    """The module `cupy`."""

    __version__ = "14.2.0"

    def __init__(self) -> None:
        self.pool = FakePool()
        self.allocator: Callable[[int], Any] = self.pool.malloc
        self.functions: dict[int, FakeFunction] = {}
        self.cuda = SimpleNamespace(
            Device=lambda: SimpleNamespace(compute_capability="90", id=0),
            Module=FakeModule,
            memory=SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            get_allocator=lambda: self.allocator,
            set_allocator=lambda allocator: setattr(self, "allocator", allocator),
            alloc_pinned_memory=PinnedMemory,
            get_current_stream=lambda: stream,
            runtime=SimpleNamespace(
                CUDA_R_32F=0,
                CUDA_R_16BF=14,
                memGetInfo=lambda: (self.pool.limit - self.pool.total_bytes(), GIB),
                getDeviceProperties=lambda device: {"name": b"Test GPU", "major": 9, "minor": 0},
            ),
            driver=SimpleNamespace(
                CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES=8, funcSetAttribute=self._set_attribute
            ),
        )

    def _set_attribute(self, function: int, attribute: int, value: int) -> None:
        assert attribute == 8
        ctypes.cast(function, ctypes.py_object).value.shared_bytes = value

    def get_default_memory_pool(self) -> FakePool:
        return self.pool

    def empty(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        assert type(shape) is tuple
        memory = self.allocator(math.prod(shape) * np.dtype(dtype).itemsize)
        return DeviceArray(memory.host.view(dtype).reshape(shape))

    def zeros(self, shape: tuple[int, ...], dtype: Any) -> DeviceArray:
        array = self.empty(shape, dtype)
        array.host[...] = 0
        return array


def install(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeCupy, FakeCublas]:
    """Let `import cupy` find the fake, and kernel files be compiled for the host."""
    cupy, cublas = FakeCupy(), FakeCublas()
    libs = SimpleNamespace(cublas=cublas)
    modules = {"cupy": cupy, "cupy_backends.cuda.libs": libs, "cupy_backends.cuda.libs.cublas": cublas}
    for name in ("cupy_backends", "cupy_backends.cuda"):
        modules[name] = SimpleNamespace()
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    where = "entrenar_core.backend.cuda_cupy"
    monkeypatch.setattr(f"{where}.architecture_of", lambda capability: f"sm_{capability}")
    monkeypatch.setattr(f"{where}.kept_kernels", lambda file, element, architecture: f"{file.name}:{element}".encode())
    return cupy, cublas

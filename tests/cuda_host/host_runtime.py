"""`Runtime` without a GPU: NumPy's memory and products, and the kernel files compiled for the host by a C++ compiler.

The compiled files are kept in a folder by the hash of their text, so that only the first run of the tests compiles.
"""

from __future__ import annotations

import ctypes
import hashlib
import math
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.backend.cuda_runtime import Grid
from entrenar_core.backend.cuda_source import ELEMENT_NAMES, Kernel, KernelFile, kernel_file
from tests.cuda_host.device_array import DeviceArray, HostModule, waits
from tests.cuda_host.host_stream import Pointer

_HEADER = Path(__file__).with_name("host_cuda.h")
_FLAGS = ("-std=c++17", "-O2", "-fno-strict-aliasing", "-ffp-contract=off", "-shared", "-fPIC", "-w")
NO_COMPILER = "kernels run on the host where there is g++ on x86-64"


def is_possible() -> bool:
    """Whether this machine can compile kernels for the host."""
    return shutil.which("g++") is not None and platform.machine() in ("x86_64", "AMD64")


def library_folder() -> Path:
    """Where compiled kernel files are kept."""
    stated = os.environ.get("ENTRENAR_TEST_CACHE")
    return Path(stated) if stated else Path(tempfile.gettempdir()) / f"entrenar-host-kernels-{os.getuid()}"


@cache
def library(file: str, element: str) -> ctypes.CDLL:
    """The kernel file compiled for the host."""
    return compiled(kernel_file(file), element)


def compiled(source: KernelFile, element: str) -> ctypes.CDLL:
    """The text of a kernel file compiled for the host, with a launcher beside each kernel."""
    launchers = "".join(
        f'extern "C" void launch_{name}(const unsigned* shape, size_t shared, void** arguments)'
        f" {{ host::launch({name}, shape, shared, arguments); }}\n"
        for name in source.signatures
    )
    text = f'#include "{_HEADER}"\n#define ELEMENT {ELEMENT_NAMES[element]}\n{source.text}\n{launchers}'
    digest = hashlib.sha256("\0".join((_HEADER.read_text(), text, *_FLAGS)).encode()).hexdigest()[:20]
    path = library_folder() / f"{source.name}-{element}-{digest}.so"
    if not path.exists():
        _compile(text, path)
    return ctypes.CDLL(str(path))


def _compile(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        source, made = Path(folder) / "kernels.cpp", Path(folder) / "kernels.so"
        source.write_text(text)
        result = subprocess.run(
            ["g++", *_FLAGS, "-o", str(made), str(source)], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr[:4000]
        made.replace(path)  # another process may have made the same


class HostRuntime:
    """`Runtime` on the host. Memory that was not written reads as NaN, and so does what lies around an array; a kernel
    that writes there fails.

    Args:
        limit_bytes: the largest array there is room for.
        descending: run threads from the last to the first, which only shows where a barrier is missing.
    """

    def __init__(self, limit_bytes: int | None = None, descending: bool = False) -> None:
        import ml_dtypes

        self.descending = descending
        self.xp = HostModule()
        self.bfloat16 = np.dtype(ml_dtypes.bfloat16)
        self.limit_bytes = limit_bytes
        self.launches = 0
        self.in_use = 0
        self._peak = 0

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        if self.limit_bytes is not None and n_bytes > self.limit_bytes:
            raise MemoryError(f"{n_bytes} bytes")
        memory = _Memory(n_bytes + 2 * _MARGIN, np.uint8)
        self._count(n_bytes)
        weakref.finalize(memory, self._count, -n_bytes)
        memory.fill(0xFF)
        return DeviceArray(np.ndarray(shape, dtype, memory, _MARGIN))

    def _count(self, n_bytes: int) -> None:
        self.in_use += n_bytes
        self._peak = max(self._peak, self.in_use)

    def zeros(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        array = self.empty(shape, dtype)
        array.host[...] = 0
        return array

    def to_device(self, values: np.ndarray) -> DeviceArray:
        array = self.empty(values.shape, values.dtype)
        array.host[...] = values
        return array

    def to_host(self, array: DeviceArray) -> np.ndarray:
        waits["count"] += 1
        return array.host.copy()

    def address(self, array: DeviceArray) -> int:
        return int(array.host.ctypes.data)

    def launch(self, kernel: Kernel, grid: Grid, n_threads: int, arguments: Sequence[Any], shared_bytes: int) -> None:
        self.launches += 1
        run(library(kernel.file, kernel.element), kernel, grid, n_threads, arguments, shared_bytes, self.descending)

    def gemm(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, alpha: float, beta: float) -> None:
        assert a.dtype == b.dtype and out.dtype in (a.dtype, np.float32) and min(*a.shape, *b.shape) > 0
        for operand in (a, b):
            assert operand.dtype.itemsize in operand.strides[-2:], f"gemm of strides {operand.strides}"
        assert out.strides[-1] == out.dtype.itemsize or out.shape[-1] == 1
        product = np.float32(alpha) * np.matmul(a.host.astype(np.float32), b.host.astype(np.float32))
        if beta != 0:
            product += np.float32(beta) * out.host.astype(np.float32)
        out.host[...] = product.astype(out.dtype)

    def environment(self) -> dict[str, str]:
        return {"gpu": "none"}

    def free_bytes(self) -> int:
        """What a small GPU has."""
        return max(0, (8 << 30) - self.in_use)

    def peak_bytes(self) -> int:
        return self._peak

    def synchronize(self) -> None:
        waits["count"] += 1

    def close(self) -> None:
        """Nothing is held."""


def run(
    where: ctypes.CDLL,
    kernel: Kernel,
    grid: Grid,
    n_threads: int,
    arguments: Sequence[Any],
    shared_bytes: int = 0,
    descending: bool = False,
) -> None:
    """Run a kernel of a compiled file; arguments as `Kernel.checked` gives them."""
    assert min(grid) > 0 and max(grid[1:]) < 65536, (kernel.name, grid)
    assert n_threads % 32 == 0 and 0 < n_threads <= 1024, (kernel.name, n_threads)
    values = [_c_value(argument) for argument in arguments]
    pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
    shape = (ctypes.c_uint * 7)(*grid, n_threads, 1, 1, descending)
    with _one_at_a_time:
        getattr(where, f"launch_{kernel.name}")(shape, ctypes.c_size_t(shared_bytes), pointers)
    for parameter, argument in zip(kernel.parameters, arguments, strict=True):
        if isinstance(argument, DeviceArray):
            _require_margins(argument, f"{kernel.name}: memory beside {parameter.name} was written")


_one_at_a_time = threading.Lock()
"""A compiled file has one set of threads."""

_MARGIN = 256
"""Bytes before and behind an array, which nothing writes. An array's own memory is aligned as they are."""


class _Memory(np.ndarray):
    """The bytes of an array and its margins: it owns them, so it is what views are views of."""


def _require_margins(array: DeviceArray, message: str) -> None:
    memory = array.host
    while memory is not None and not isinstance(memory, _Memory):
        memory = memory.base
    if memory is not None:
        assert (memory[:_MARGIN] == 0xFF).all() and (memory[-_MARGIN:] == 0xFF).all(), message


def _c_value(argument: Any) -> np.ndarray:
    """A number, or the address of an array, in memory of its own."""
    if argument is None:
        return np.zeros(1, np.uint64)
    if isinstance(argument, DeviceArray | Pointer):
        return np.array([argument.data.ptr if isinstance(argument, DeviceArray) else argument.ptr], np.uint64)
    return np.asarray(argument).reshape(1)

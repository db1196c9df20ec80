"""`Runtime` without a GPU: NumPy's memory and products, and the kernel files compiled for the host by a C++ compiler.

The compiled files are kept in a folder by the hash of their text, so that only the first run of the tests compiles.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.backend.cuda_runtime import Grid
from entrenar_core.backend.cuda_source import ELEMENT_NAMES, Kernel, kernel_file
from tests.cuda_host.device_array import DeviceArray, HostModule, waits

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
    source = kernel_file(file)
    launchers = "".join(
        f'extern "C" void launch_{name}(const unsigned* shape, size_t shared, void** arguments)'
        f" {{ host::launch({name}, shape, shared, arguments); }}\n"
        for name in source.signatures
    )
    text = f'#include "{_HEADER}"\n#define ELEMENT {ELEMENT_NAMES[element]}\n{source.text}\n{launchers}'
    digest = hashlib.sha256("\0".join((_HEADER.read_text(), text, *_FLAGS)).encode()).hexdigest()[:20]
    path = library_folder() / f"{file}-{element}-{digest}.so"
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
    """`Runtime` on the host. Memory that was not written reads as NaN; `limit_bytes` is the largest array there is
    room for."""

    def __init__(self, limit_bytes: int | None = None) -> None:
        import ml_dtypes

        self.xp = HostModule()
        self.bfloat16 = np.dtype(ml_dtypes.bfloat16)
        self.limit_bytes = limit_bytes
        self.launches = 0
        self._allocated = 0

    def empty(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        array = np.empty(shape, dtype)
        if self.limit_bytes is not None and array.nbytes > self.limit_bytes:
            raise MemoryError(f"{array.nbytes} bytes")
        self._allocated += array.nbytes
        array.reshape(-1).view(np.uint8)[...] = 0xFF
        return DeviceArray(array)

    def zeros(self, shape: Sequence[int], dtype: Any) -> DeviceArray:
        array = self.empty(shape, dtype)
        array.host[...] = 0
        return array

    def to_device(self, values: np.ndarray) -> DeviceArray:
        return DeviceArray(np.array(values, order="C"))

    def to_host(self, array: DeviceArray) -> np.ndarray:
        waits["count"] += 1
        return array.host.copy()

    def address(self, array: DeviceArray) -> int:
        return int(array.host.ctypes.data)

    def launch(self, kernel: Kernel, grid: Grid, n_threads: int, arguments: Sequence[Any], shared_bytes: int) -> None:
        assert min(grid) > 0 and max(grid[1:]) < 65536 and n_threads % 32 == 0, (kernel.name, grid, n_threads)
        values = [_c_value(argument) for argument in arguments]
        pointers = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
        shape = (ctypes.c_uint * 6)(*grid, n_threads, 1, 1)
        self.launches += 1
        getattr(library(kernel.file, kernel.element), f"launch_{kernel.name}")(
            shape, ctypes.c_size_t(shared_bytes), pointers
        )

    def gemm(self, a: DeviceArray, b: DeviceArray, out: DeviceArray, alpha: float, beta: float) -> None:
        assert a.dtype == b.dtype and out.dtype in (a.dtype, np.float32) and min(*a.shape, *b.shape) > 0
        for operand in (a, b):
            assert operand.dtype.itemsize in operand.strides[-2:], f"gemm of strides {operand.strides}"
        assert out.strides[-1] == out.dtype.itemsize or out.shape[-1] == 1
        product = np.float32(alpha) * np.matmul(a.host.astype(np.float32), b.host.astype(np.float32))
        if beta != 0:
            product += np.float32(beta) * out.host.astype(np.float32)
        out.host[...] = product.astype(out.dtype)

    def peak_bytes(self) -> int:
        """What was ever allocated: nothing is freed as far as this runtime knows."""
        return self._allocated

    def synchronize(self) -> None:
        waits["count"] += 1

    def close(self) -> None:
        """Nothing is held."""


def _c_value(argument: Any) -> np.ndarray:
    """A number, or the address of an array, in memory of its own."""
    if argument is None:
        return np.zeros(1, np.uint64)
    if isinstance(argument, DeviceArray):
        return np.array([argument.host.ctypes.data], np.uint64)
    return np.asarray(argument).reshape(1)

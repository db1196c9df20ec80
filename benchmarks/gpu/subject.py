"""What is tried: the CUDA backend on a device in both element types, and what it is held against."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.gpu.sizes import GPU, Sizes
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_runtime import Runtime
from entrenar_core.backend.reference import ReferenceBackend

DTYPES = ("float32", "bfloat16")
"""Of activations."""

TRUTH = ReferenceBackend(np.float64)


class Subject:
    """The CUDA backend on one device.

    Args:
        runtime: the device.
        sizes: of what is tried.
    """

    def __init__(self, runtime: Runtime, sizes: Sizes) -> None:
        self.runtime = runtime
        self.sizes = sizes
        self.backends: dict[str, Any] = {dtype: CudaBackend(runtime, dtype) for dtype in DTYPES}

    @cached_property
    def cpu(self) -> CpuBackend:
        """The CPU backend, on every core."""
        return CpuBackend(None)


def open_subject() -> Subject:
    """The CUDA backend on this machine's GPU.

    Raises:
        EntrenarError: there is none, or CuPy is not installed.
    """
    from entrenar_core.backend.cuda_cupy import CupyRuntime

    return Subject(CupyRuntime(), GPU)

"""What is tried: the CUDA backend on a device in both element types, and what it is held against."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.gpu.sizes import GPU, Sizes
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_runtime import Runtime
from entrenar_core.backend.cuda_sdpa import Sdpa
from entrenar_core.backend.reference import ReferenceBackend

DTYPES = ("float32", "bfloat16")
"""Of activations."""

TRUTH = ReferenceBackend(np.float64)


class Subject:
    """The CUDA backend on one device.

    Args:
        runtime: the device.
        sizes: of what is tried.
        sdpa: the library of attentions, or why there is none.
        deterministic: whether that library has to give the same bits each time.
    """

    def __init__(self, runtime: Runtime, sizes: Sizes, sdpa: Sdpa | str, deterministic: bool = False) -> None:
        self.runtime = runtime
        self.sizes = sizes
        self.sdpa = sdpa
        self.deterministic = deterministic
        self.backends: dict[str, Any] = {
            dtype: CudaBackend(runtime, dtype, sdpa, deterministic=deterministic) for dtype in DTYPES
        }

    @cached_property
    def cpu(self) -> CpuBackend:
        """The CPU backend, on every core."""
        return CpuBackend(None)

    @cached_property
    def without_library(self) -> Subject:
        """The same device, where all attention is made of matrix products."""
        return Subject(self.runtime, self.sizes, "left out", self.deterministic)

    @cached_property
    def same_each_time(self) -> Subject:
        """The same device, where equal input gives equal bits."""
        return Subject(self.runtime, self.sizes, self.sdpa, deterministic=True)


def open_subject() -> Subject:
    """The CUDA backend on this machine's GPU, as a run opens it.

    Raises:
        EntrenarError: there is none, or CuPy is not installed.
    """
    from entrenar_core.backend.cuda_cudnn import open_cudnn
    from entrenar_core.backend.cuda_cupy import CupyRuntime

    runtime = CupyRuntime()
    return Subject(runtime, GPU, open_cudnn(runtime.capability, runtime.stream()))

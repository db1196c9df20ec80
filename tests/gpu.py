"""The GPU of this machine, for tests that are skipped where there is none."""

from __future__ import annotations

import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_cupy import CupyRuntime
from entrenar_core.backend.cuda_probe import find_gpu
from entrenar_core.errors import EntrenarError


def gpu_backend(compute_dtype: str) -> CudaBackend:
    """The CUDA backend on a real GPU; skips the test that asks for one in vain."""
    try:
        find_gpu()
    except EntrenarError as error:
        pytest.skip(f"no GPU for CUDA's cases: {error.message}")
    return CudaBackend(CupyRuntime(), compute_dtype)

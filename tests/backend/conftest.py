"""Each backend that this machine can run, for the tests whose one body holds on all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.reference import ReferenceBackend
from tests.cuda_host import host_runtime
from tests.gpu import gpu_backend

BACKENDS: dict[str, Callable[[], Any]] = {
    "reference": lambda: ReferenceBackend(np.float32),
    "cpu-1-thread": lambda: CpuBackend(threads=1),
    "cpu-2-threads": lambda: CpuBackend(threads=2),
    "cpu-3-threads": lambda: CpuBackend(threads=3, debug_pool=True),  # memory that was handed back reads as NaN
    "cuda-on-host": lambda: CudaBackend(host_runtime.HostRuntime(), "float32"),
    "cuda": lambda: gpu_backend("float32"),
}


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    if request.param == "cuda-on-host" and not host_runtime.is_possible():
        pytest.skip(host_runtime.NO_COMPILER)
    made = BACKENDS[request.param]()
    yield made
    made.close()

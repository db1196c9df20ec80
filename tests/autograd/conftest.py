"""The backends of the autograd tests: the float64 truth, and the CPU backend with a pool that spoils freed memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend


@pytest.fixture(scope="session")
def double() -> ReferenceBackend:
    """The plain backend in float64."""
    return ReferenceBackend(np.float64)


@pytest.fixture(scope="session")
def cpu() -> Iterator[CpuBackend]:
    """The CPU backend on one thread; memory that was handed back reads as NaN."""
    backend = CpuBackend(threads=1, debug_pool=True)
    yield backend
    backend.close()

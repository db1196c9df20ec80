"""Each backend that this machine can run, for the tests whose one body holds on all of them."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.reference import ReferenceBackend

BACKENDS = {"reference": lambda: ReferenceBackend(np.float32)}
if importlib.util.find_spec("entrenar_core.backend.cpu"):
    from entrenar_core.backend.cpu import CpuBackend

    BACKENDS |= {
        "cpu-1-thread": lambda: CpuBackend(threads=1),
        "cpu-2-threads": lambda: CpuBackend(threads=2),
        "cpu-3-threads": lambda: CpuBackend(threads=3),
    }


@pytest.fixture(scope="session", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = BACKENDS[request.param]()
    yield made
    made.close()

"""All kernels of the CUDA backend at once: the reference's numbers, the same bits each time, no barrier missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.reference import ReferenceBackend
from tests.backend.every_kernel import call_every_kernel
from tests.cuda_host import host_runtime

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

SIZES = pytest.mark.parametrize(("rows", "width"), [(2, 11), (3, 17), (7, 64), (65, 31), (70, 523)])


def results(rows: int, width: int, *, descending: bool = False) -> dict[str, Any]:
    backend = CudaBackend(host_runtime.HostRuntime(descending=descending), "float32")
    return call_every_kernel(backend, rows, width)


@SIZES
def test_every_kernel_gives_the_numbers_of_the_reference(rows: int, width: int) -> None:
    truth = call_every_kernel(ReferenceBackend(), rows, width)
    for name, actual in results(rows, width).items():
        scale = np.abs(truth[name]).max(initial=1e-30)
        np.testing.assert_allclose(actual / scale, truth[name] / scale, rtol=0, atol=2e-5, err_msg=name)


@SIZES
def test_no_result_depends_on_the_order_of_threads(rows: int, width: int) -> None:
    """As one would whose kernel lacks a barrier."""
    ascending, descending = results(rows, width), results(rows, width, descending=True)
    assert [name for name in ascending if ascending[name].tobytes() != descending[name].tobytes()] == []

"""Every op on the CUDA backend, its kernels run on the host: values and gradients are those of the reference.

The stand-in for CuPy's arrays refuses what a device would refuse, so an op that mixes host and device fails here.
"""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.reference import ReferenceBackend
from tests.autograd.op_cases import OpCase, op_cases
from tests.backend.agreement import assert_close
from tests.cuda_host import host_runtime

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
TRUTH = ReferenceBackend(np.float64)
CASES = op_cases(TRUTH)


@pytest.fixture(scope="module")
def cases() -> dict[str, OpCase]:
    return op_cases(CudaBackend(host_runtime.HostRuntime(), "float32"))


@pytest.fixture(scope="module")
def device() -> CudaBackend:
    return CudaBackend(host_runtime.HostRuntime(), "float32")


def value_and_gradients(backend: Backend, case: OpCase) -> tuple[np.ndarray, list[np.ndarray]]:
    function, inputs = case
    tensors = [Tensor(backend.asarray(each), backend, requires_grad=True) for each in inputs]
    with Tape() as tape:
        result = function(*tensors)
    upstream = np.random.default_rng(3).standard_normal(result.shape)
    tape.backward(result, backend.asarray(upstream, result.data.dtype))
    return backend.to_host(result.data), [backend.to_host(each.grad) for each in tensors]


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_the_reference(
    name: str, cases: dict[str, OpCase], device: CudaBackend
) -> None:
    truth, true_gradients = value_and_gradients(TRUTH, CASES[name])
    value, gradients = value_and_gradients(device, cases[name])
    assert_close(value, truth, 1e-5, name, terms=1.0)
    for gradient, true_gradient in zip(gradients, true_gradients, strict=True):
        assert_close(gradient, true_gradient, 1e-5, f"gradient of {name}", terms=1.0)

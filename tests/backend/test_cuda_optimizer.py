"""Optimizer steps of the CUDA backend: how often it launches, copies and waits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_optimizer import CHUNK
from entrenar_core.backend.parameters import AdamParams, SGDParams
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import DeviceArray, waits

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

SHAPES = [(1,), (3, 5), (CHUNK // 4, 4), (CHUNK + 1,), (0, 7), (2 * CHUNK - 3,)]
ADAM = AdamParams(0.1, 0.9, 0.999, 1e-8, 0.01, True, 1)


class CountingRuntime(host_runtime.HostRuntime):
    """Counts copies to the device."""

    copies = 0

    def to_device(self, values: np.ndarray) -> DeviceArray:
        self.copies += 1
        return super().to_device(values)


@pytest.fixture
def backend() -> Iterator[Any]:
    made = CudaBackend(CountingRuntime(), "bfloat16")
    yield made
    made.close()


@pytest.fixture
def arrays(backend: Any, rng: np.random.Generator) -> list[Any]:
    """Parameter, gradient, m and v of each shape."""
    return [tuple(backend.asarray(np.abs(rng.normal(size=shape))) for _ in range(4)) for shape in SHAPES]


def test_a_clipped_step_is_three_launches_and_waits_for_nothing(backend: Any, arrays: list[Any]) -> None:
    loss = backend.asarray(np.array(1.0), np.float64)
    launches, before = backend.runtime.launches, waits["count"]
    clipping = backend.plan_clipping([grad for _, grad, _, _ in arrays], 1.0, loss)
    backend.adam_steps(arrays, ADAM, clipping)
    assert backend.runtime.launches == launches + 3  # sums of squares, the factor, the update
    assert waits["count"] == before
    clipping.read()
    clipping.read()
    assert waits["count"] == before + 1


def test_the_table_of_a_step_is_copied_once(backend: Any, arrays: list[Any]) -> None:
    loss = backend.asarray(np.array(1.0), np.float64)
    grads = [grad for _, grad, _, _ in arrays]
    before = backend.runtime.copies
    for _ in range(5):
        backend.adam_steps(arrays, ADAM, backend.plan_clipping(grads, 1.0, loss))
    assert backend.runtime.copies == before + 2  # of the gradients, and of all arrays


def test_other_arrays_are_other_tables(backend: Any, arrays: list[Any], rng: np.random.Generator) -> None:
    """Also more than are kept."""
    for _ in range(40):
        p, grad = (backend.asarray(rng.normal(size=(33,))) for _ in range(2))
        expected = backend.to_host(p) - 0.5 * backend.to_host(grad)
        backend.sgd_steps([(p, grad, None)], SGDParams(0.5, 0.0, False, 0.0, True))
        np.testing.assert_allclose(backend.to_host(p), expected, rtol=1e-6, atol=1e-7)


def test_views_that_are_not_aligned_are_updated_like_others(backend: Any, rng: np.random.Generator) -> None:
    values = [np.float32(np.abs(rng.normal(size=103))) for _ in range(4)]
    aligned = tuple(backend.asarray(each) for each in values)
    shifted = tuple(backend.asarray(np.concatenate([[0.0], each]))[1:] for each in values)
    backend.adam_steps([aligned], ADAM)
    backend.adam_steps([shifted], ADAM)
    for one, other in zip(aligned, shifted, strict=True):
        np.testing.assert_array_equal(backend.to_host(one), backend.to_host(other))


@pytest.mark.parametrize("wrong", ["shape", "dtype", "gaps"])
def test_arrays_that_do_not_fit_are_refused(backend: Any, wrong: str) -> None:
    p = backend.zeros((4, 6))
    grad = {
        "shape": backend.zeros((6, 4)),
        "dtype": backend.zeros((4, 6), backend.runtime.bfloat16),
        "gaps": backend.zeros((6, 4)).T,
    }[wrong]
    with pytest.raises(ValueError, match="sgd: "):
        backend.sgd_steps([(p, grad, None)], SGDParams(0.5, 0.0, False, 0.0, True))


def test_no_parameters_are_no_launch(backend: Any) -> None:
    launches = backend.runtime.launches
    backend.adam_steps([], ADAM)
    assert backend.runtime.launches == launches
    assert backend.plan_clipping([]).read().norm == 0.0

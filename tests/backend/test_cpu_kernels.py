"""What is particular to the CPU kernels: error bounds of the elementary functions, threads, determinism, plain Python.

That each kernel computes its formula is the matter of test_backends.py, which holds all backends against the reference.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cpu_kernels import elementary
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.jit import kernel
from tests.backend.every_kernel import ATTENTION, ROWS, WIDTH, call_every_kernel

NDArray = np.ndarray[Any, np.dtype[Any]]


def elementwise(function: Callable[[Any], Any]) -> Callable[[NDArray], NDArray]:
    """The function over an array, compiled into a loop as the kernels do."""

    @kernel()
    def loop(x, y):  # type: ignore[no-untyped-def]
        for i in range(x.size):
            y[i] = function(x[i])

    def apply(x: NDArray) -> NDArray:
        x = np.asarray(x, np.float32)
        y = np.empty_like(x)
        loop(x, y)
        return y

    return apply


def every_exponent(low: float, high: float, count: int = 400_000) -> NDArray:
    """Numbers spread evenly over low ... high, and over the magnitudes within it."""
    even = np.linspace(low, high, count)
    sizes = np.geomspace(1e-30, max(abs(low), abs(high)), count // 4)
    both = np.concatenate([even, sizes, -sizes]).astype(np.float32)
    return both[(both >= np.float32(low)) & (both <= np.float32(high))]


def largest_relative_error(actual: NDArray, truth: NDArray) -> float:
    return float(np.abs(actual.astype(np.float64) / truth - 1).max())


def test_exp_is_within_3e_7() -> None:
    x = every_exponent(-87, 88)
    assert largest_relative_error(elementwise(elementary.exp)(x), np.exp(x.astype(np.float64))) < 3e-7


def test_exp_beyond_its_range_is_zero_or_constant_and_keeps_nan() -> None:
    exp = elementwise(elementary.exp)
    y = exp(np.array([-np.inf, -1e30, -87.1, 88, 89, 1e30, np.inf, np.nan, -np.nan, 0.0], np.float32))
    assert (y[:3] == 0).all()
    assert (y[3:7] == y[3]).all() and y[3] > 1.6e38
    assert np.isnan(y[7:9]).all()
    assert y[9] == 1


def test_expm1_of_what_is_not_positive_is_within_3e_7() -> None:
    x = every_exponent(-100, 0)
    x = x[x != 0]
    expm1 = elementwise(elementary.expm1_negative)
    assert largest_relative_error(expm1(x), np.expm1(x.astype(np.float64))) < 3e-7
    np.testing.assert_array_equal(expm1(np.array([0, -np.inf, np.nan], np.float32)), np.float32([0, -1, np.nan]))


@pytest.mark.parametrize("x", [every_exponent(-0.99, 5), np.float32(2) ** np.arange(-126, 127, dtype=np.float32)])
def test_log1p_is_within_3e_7(x: NDArray) -> None:
    @kernel()
    def log1p(x):  # type: ignore[no-untyped-def]
        return elementary.log1p(x, elementary.ONE + x)

    x = x[np.abs(x) > 1e-37]
    assert largest_relative_error(elementwise(log1p)(x), np.log1p(x.astype(np.float64))) < 3e-7


def test_tanh_is_within_5e_7() -> None:
    x = every_exponent(-30, 30)
    x = x[x != 0]
    assert largest_relative_error(elementwise(elementary.tanh)(x), np.tanh(x.astype(np.float64))) < 5e-7


def test_tanh_of_zero_infinity_and_nan() -> None:
    y = elementwise(elementary.tanh)(np.array([0.0, np.inf, -np.inf, 1e30, np.nan], np.float32))
    np.testing.assert_array_equal(y, np.array([0, 1, -1, 1, np.nan], np.float32))


def test_sigmoid_is_within_4e_7() -> None:
    x = every_exponent(-87, 100)
    truth = 1 / (1 + np.exp(-x.astype(np.float64)))
    assert largest_relative_error(elementwise(elementary.sigmoid)(x), truth) < 4e-7


def test_sigmoid_of_infinity_and_nan() -> None:
    y = elementwise(elementary.sigmoid)(np.array([np.inf, -np.inf, np.nan], np.float32))
    assert y[0] == 1
    assert 0 <= y[1] < 1e-38
    assert np.isnan(y[2])


def test_normal_cdf_is_within_1e_6_in_both_tails() -> None:
    import math

    @kernel()
    def cdf(x):  # type: ignore[no-untyped-def]
        return elementary.normal_cdf(x, np.float32(np.exp(-0.5 * np.float64(x) * np.float64(x))))

    x = every_exponent(-12.5, 12.5, 20_000)
    truth = np.array([0.5 * math.erfc(-each / math.sqrt(2)) for each in x.astype(np.float64)])
    assert largest_relative_error(elementwise(cdf)(x), truth) < 1e-6


@pytest.mark.parametrize("size", [0, 1, 2, 15, 16, 17, 33, 1000])
def test_maximum_of_any_length(size: int, rng: np.random.Generator) -> None:
    row = rng.standard_normal(size).astype(np.float32)
    assert elementary.maximum(row) == (row.max() if size else -np.inf)
    assert elementary.maximum(-np.abs(row)) == ((-np.abs(row)).max() if size else -np.inf)


def test_maximum_of_infinite_rows() -> None:
    assert elementary.maximum(np.full(5, -np.inf, np.float32)) == -np.inf
    assert elementary.maximum(np.array([-np.inf, 3, np.inf], np.float32)) == np.inf


@pytest.fixture
def cut_finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every kernel is split over all threads, however small the work."""
    from entrenar_core.backend import cpu, cpu_gemm, cpu_work

    monkeypatch.setattr(cpu, "GRAIN", 1)
    monkeypatch.setattr(cpu_work, "GRAIN", 1)
    monkeypatch.setattr(cpu_work, "_REDUCTION_BLOCK", 64)
    monkeypatch.setattr(cpu_gemm, "_FLOPS_PER_PART", 1)
    monkeypatch.setattr(cpu_gemm, "_TILE", 64)


def assert_same_results(actual: dict[str, NDArray], truth: dict[str, NDArray], tolerance: float) -> None:
    assert actual.keys() == truth.keys()
    for name, expected in truth.items():
        scale = np.abs(expected).max(initial=1e-30)
        np.testing.assert_allclose(actual[name] / scale, expected / scale, rtol=0, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (2, 3), (3, 17), (65, 31), (ROWS, WIDTH)])
def test_every_kernel_cut_over_more_threads_than_cores(rows: int, width: int, cut_finely: None) -> None:
    truth = call_every_kernel(ReferenceBackend(), max(rows, 2), max(width, 11))
    backend = CpuBackend(threads=7, debug_pool=True)
    assert_same_results(call_every_kernel(backend, max(rows, 2), max(width, 11)), truth, 2e-5)
    backend.close()


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_repeated_runs_give_the_same_bytes(threads: int) -> None:
    backend = CpuBackend(threads=threads, debug_pool=True)
    first = call_every_kernel(backend, ROWS, WIDTH)
    for _ in range(3):
        again = call_every_kernel(backend, ROWS, WIDTH)
        assert [name for name in first if first[name].tobytes() != again[name].tobytes()] == []
    backend.close()


def test_two_backends_of_one_size_give_the_same_bytes() -> None:
    results = []
    for _ in range(2):
        backend = CpuBackend(threads=3)
        results.append(call_every_kernel(backend, ROWS, WIDTH))
        backend.close()
    assert [name for name in results[0] if results[0][name].tobytes() != results[1][name].tobytes()] == []


def test_kernels_other_than_products_do_not_depend_on_the_thread_count() -> None:
    results = []
    for threads in (1, 4):
        backend = CpuBackend(threads=threads)
        results.append(call_every_kernel(backend, ROWS, WIDTH))
        backend.close()
    differ = {name for name in results[0] if results[0][name].tobytes() != results[1][name].tobytes()}
    assert {name for name in differ if "gemm" not in name and "attention" not in name} == set()


PLAIN_PYTHON = """
import json, sys
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cpu_kernels import softmax
from tests.backend.every_kernel import call_every_kernel
assert type(softmax.softmax).__name__ == "function", "the kernel was compiled"
assert "numba" not in sys.modules
results = call_every_kernel(CpuBackend(threads=2), 9, 13)
print(json.dumps({name: [array.tolist(), str(array.dtype)] for name, array in results.items()}))
"""


def test_kernels_as_plain_python_compute_the_same(project_root: Path) -> None:
    environment = {**os.environ, "ENTRENAR_JIT": "0", "PYTHONPATH": str(project_root), "PYTHONWARNINGS": "ignore"}
    finished = subprocess.run(
        [sys.executable, "-c", PLAIN_PYTHON], env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert finished.returncode == 0, finished.stderr
    plain = {name: np.array(values, dtype) for name, (values, dtype) in json.loads(finished.stdout).items()}
    backend = CpuBackend(threads=2)
    assert_same_results(call_every_kernel(backend, 9, 13), plain, 3e-6)
    backend.close()


# Kernels have no bounds checks: what does not fit is refused before they run, naming the shapes.


@pytest.fixture
def one_thread() -> Any:
    backend = CpuBackend(threads=1)
    yield backend
    backend.close()


def test_shapes_that_do_not_fit_are_named(one_thread: Any) -> None:
    a, b = one_thread.zeros((3, 4)), one_thread.zeros((4, 3))
    with pytest.raises(ValueError, match=r"\(4, 3\).*\(3, 4\)"):
        one_thread.add(a, b)
    with pytest.raises(ValueError, match=r"\(3, 4\) @ \(3, 4\)"):
        one_thread.gemm(a, a)
    with pytest.raises(ValueError, match=r"\(3, 4\) @ \(4, 3\) -> \(4, 4\)"):
        one_thread.gemm(a, b, one_thread.zeros((4, 4)))
    with pytest.raises(ValueError, match=r"\(3, 4\).*\(3,\)"):
        one_thread.rms_norm(a, one_thread.zeros((3,)), 1e-5)
    with pytest.raises(ValueError, match="differ"):
        one_thread.swiglu(a, b)
    with pytest.raises(ValueError, match=r"not \[M, N\]"):
        one_thread.softmax(one_thread.zeros((2, 3, 4)))


@pytest.mark.parametrize("bad", [-1, 5])
def test_ids_and_labels_out_of_range_are_refused(one_thread: Any, bad: int) -> None:
    ids = np.array([0, bad, 4], np.int32)
    table, dy = one_thread.zeros((5, 2)), one_thread.zeros((3, 2))
    with pytest.raises(ValueError, match=r"leave the range 0 ... 4"):
        one_thread.embedding(table, ids)
    with pytest.raises(ValueError, match=r"leave the range 0 ... 4"):
        one_thread.embedding_backward(dy, ids, table)
    with pytest.raises(ValueError, match=r"leave the range 0 ... 4"):
        one_thread.cross_entropy(one_thread.zeros((3, 5)), ids, 1.0)


def test_another_dtype_is_refused(one_thread: Any) -> None:
    with pytest.raises(ValueError, match="float64"):
        one_thread.softmax(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="float64"):
        one_thread.gemm(np.zeros((2, 2)), one_thread.zeros((2, 2)))


def test_results_in_place_need_memory_in_order(one_thread: Any) -> None:
    with pytest.raises(ValueError, match="in place"):
        one_thread.cross_entropy(one_thread.zeros((5, 3)).T, np.zeros(3, np.int32), 1.0)
    with pytest.raises(ValueError, match="in place"):
        one_thread.add(one_thread.zeros((3, 3)), one_thread.zeros((3, 3)), out=one_thread.zeros((3, 3)).T)


def test_attention_that_would_read_beyond_the_keys_is_refused(one_thread: Any) -> None:
    q, k = one_thread.zeros((1, 4, 2, 8)), one_thread.zeros((1, 5, 1, 8))
    lower = np.zeros((1, 4), np.int32)
    with pytest.raises(ValueError, match="need as many keys"):
        one_thread.attention(q, k, k, lower, AttentionParams(1.0, q_offset=2))
    with pytest.raises(ValueError, match="lower must be"):
        one_thread.attention(q, k, k, lower - 1, ATTENTION)
    with pytest.raises(ValueError, match="lower must be"):
        one_thread.attention(q, k, k, lower + 1, ATTENTION)


def test_a_weight_of_another_backend_is_refused(one_thread: Any) -> None:
    foreign = ReferenceBackend().prepare_weight(np.zeros((2, 3), np.float32))
    with pytest.raises(TypeError, match="ReferenceWeight"):
        one_thread.linear(one_thread.zeros((4, 3)), foreign)


def test_blas_has_one_thread_while_a_backend_is_open() -> None:
    from threadpoolctl import threadpool_info

    def blas_threads() -> set[int]:
        return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}

    before = blas_threads()
    backend = CpuBackend()
    assert blas_threads() == {1}
    backend.close()
    assert blas_threads() == before

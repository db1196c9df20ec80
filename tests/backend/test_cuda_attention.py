"""Blocked attention of the CUDA backend: block boundaries, bfloat16, and what it shares with the reference.

What holds on every backend is in `test_backends_attention`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ml_dtypes import bfloat16

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.documents import HostLower
from entrenar_core.backend.parameters import AttentionParams
from tests.backend.agreement import TRUTH, assert_close
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import waits

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
NDArray = np.ndarray[Any, np.dtype[Any]]


def inputs(rng: np.random.Generator, n_queries: int, n_keys: int) -> list[NDArray]:
    """q, k, v, dout [2, ...] of 4 heads in 2 groups."""
    sizes = ((2, n_queries, 4, 8), (2, n_keys, 2, 8), (2, n_keys, 2, 8), (2, n_queries, 4, 8))
    return [rng.standard_normal(size).astype(np.float32) for size in sizes]


class CountingRuntime(host_runtime.HostRuntime):
    """Counts the multiplications of matrix products."""

    n_products = 0

    def gemm(self, a: Any, b: Any, out: Any, alpha: float, beta: float) -> None:
        self.n_products += out.size * a.shape[-1]
        super().gemm(a, b, out, alpha, beta)


def documents(n_queries: int, q_offset: int) -> NDArray:
    """Where the document of each query starts, for two sequences that are cut at different places."""
    at = np.arange(q_offset, q_offset + n_queries)
    return np.stack([np.where(at < 13, 0, 13), np.where(at < 30, np.maximum(at - 4, 0), 25)]).astype(np.int32)


def both_ways(backend: Any, arrays: list[NDArray], lower: NDArray, params: AttentionParams) -> list[NDArray]:
    """Output, log-sum-exp and the three gradients, on the host."""
    q, k, v, dout = (backend.cast(backend.asarray(each), backend.compute_dtype) for each in arrays)
    lower = backend.asarray(lower)
    out, lse = backend.attention(q, k, v, lower, params)
    gradients = backend.attention_backward(dout, q, k, v, out, lse, lower, params)
    return [backend.to_host(each) for each in (out, lse, *gradients)]


def assert_as_the_truth(
    backend: Any, arrays: list[NDArray], lower: NDArray, params: AttentionParams, tolerance: float
) -> None:
    pairs = zip(both_ways(backend, arrays, lower, params), both_ways(TRUTH, arrays, lower, params), strict=True)
    for found, truth in pairs:
        assert_close(found, truth, tolerance)


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize("rows_of_a_block", [1, 5, 16, 100])
def test_the_size_of_a_block_does_not_matter(rows_of_a_block: int, softcap: float, rng: np.random.Generator) -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), "float32")
    backend.score_bytes = 4 * 8 * 40 * rows_of_a_block
    params = AttentionParams(scale=0.6, softcap=softcap)
    assert_as_the_truth(backend, inputs(rng, 40, 40), documents(40, 0), params, 1e-5)


@pytest.mark.parametrize(("n_queries", "q_offset"), [(1, 39), (16, 24), (17, 23)])
def test_few_queries_behind_a_cache(n_queries: int, q_offset: int, rng: np.random.Generator) -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), "float32")
    params = AttentionParams(scale=0.6, q_offset=q_offset)
    assert_as_the_truth(backend, inputs(rng, n_queries, 40), documents(n_queries, q_offset), params, 1e-5)


@pytest.mark.parametrize(("compute_dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2**-7)])
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 40), (3, 1, 256), (2, 2, 7), (16, 1, 64)])
def test_few_queries_share_a_long_cache_among_many_warps(
    heads: int, kv_heads: int, width: int, compute_dtype: str, tolerance: float, rng: np.random.Generator
) -> None:
    sizes = ((2, 3, heads, width), (2, 400, kv_heads, width), (2, 400, kv_heads, width))
    q, k, v = (rng.standard_normal(size).astype(bfloat16).astype(np.float32) for size in sizes)
    lower = np.array([[0, 0, 0], [130, 251, 299]], np.int32)  # the first stretches of keys are seen by nobody
    params = AttentionParams(scale=0.2, softcap=3.0, q_offset=300)
    found = []
    for descending in (False, True):
        backend = CudaBackend(host_runtime.HostRuntime(descending=descending), compute_dtype)
        arrays = [backend.cast(backend.asarray(each), backend.compute_dtype) for each in (q, k, v)]
        found.append([backend.to_host(each) for each in backend.attention(*arrays, backend.asarray(lower), params)])
        assert backend.attention_paths == {"token by token": 1}
    for one, same, truth in zip(*found, TRUTH.attention(q, k, v, lower, params), strict=True):
        assert_close(one, truth, tolerance)
        np.testing.assert_array_equal(one, same)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("n_queries", "q_offset"), [(60, 0), (40, 20), (20, 40)])
def test_keys_that_no_query_of_a_block_sees_are_left_out(
    n_queries: int, q_offset: int, compute_dtype: str, rng: np.random.Generator
) -> None:
    """Where the host knows them: what it knows changes nothing else."""
    at = np.arange(q_offset, q_offset + n_queries)
    lower = np.stack([np.maximum(at - 6, 0), at // 10 * 10]).astype(np.int32)
    arrays = [each.astype(bfloat16).astype(np.float32) for each in inputs(rng, n_queries, 60)]
    products = []
    for host_lower in (None, HostLower(lower)):
        backend = CudaBackend(CountingRuntime(), compute_dtype)
        backend.score_bytes = 4 * 8 * 60 * 8
        params = AttentionParams(scale=0.6, softcap=5.0, q_offset=q_offset, host_lower=host_lower)
        assert_as_the_truth(backend, arrays, lower, params, 1e-5 if compute_dtype == "float32" else 2**-6)
        products.append(backend.runtime.n_products)
    assert products[1] < 0.75 * products[0]


def test_bfloat16_rounds_what_products_read_and_give(rng: np.random.Generator) -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), "bfloat16")
    rounded = [
        backend.to_host(backend.cast(backend.asarray(each), backend.compute_dtype)) for each in inputs(rng, 40, 40)
    ]
    lower, params = documents(40, 0), AttentionParams(scale=0.6)
    assert_as_the_truth(backend, rounded, lower, params, 2**-6)
    lse, true_lse = (both_ways(one, rounded, lower, params)[1] for one in (backend, TRUTH))
    assert_close(lse, true_lse, 1e-5, "the log-sum-exp, which is not rounded")


def test_scores_stay_within_their_limit_of_memory(rng: np.random.Generator) -> None:
    limit = 4 * 8 * 256 * 16
    backend = CudaBackend(host_runtime.HostRuntime(limit_bytes=limit), "float32")
    backend.score_bytes = limit
    found = both_ways(backend, inputs(rng, 256, 256), np.zeros((2, 256), np.int32), AttentionParams(scale=0.6))
    assert all(np.isfinite(each).all() for each in found)


def test_how_it_was_computed_is_said(rng: np.random.Generator) -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), "float32", "it is not installed")
    assert backend.notes() == ()
    both_ways(backend, inputs(rng, 8, 8), np.zeros((2, 8), np.int32), AttentionParams(scale=0.6))
    assert backend.notes() == ("attention: blocked: it is not installed",)
    backend.attention_paths = {"blocked: float32 scores": 1, "cudnn": 3}
    assert backend.notes() == ("attention: cudnn (75%); blocked: float32 scores (25%)",)


def test_nothing_waits_for_the_device(rng: np.random.Generator) -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), "float32")
    q, k, v, dout = (backend.asarray(each) for each in inputs(rng, 40, 40))
    lower, params, before = backend.asarray(documents(40, 0)), AttentionParams(scale=0.6), waits["count"]
    out, lse = backend.attention(q, k, v, lower, params)
    backend.attention_backward(dout, q, k, v, out, lse, lower, params)
    assert waits["count"] == before

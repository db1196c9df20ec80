"""Products of few rows, and attention of one query a sequence: what generation multiplies by."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cpu_gemm import FEW_ROWS
from entrenar_core.backend.parameters import AttentionParams
from tests.backend.agreement import assert_agrees, assert_close, on


@pytest.mark.parametrize("n_rows", [1, 2, 3, 4, 5, 8, 63, FEW_ROWS, FEW_ROWS + 1])
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (4, 32), (67, 100)], ids=str)
@pytest.mark.parametrize("threads", [1, 3])
def test_few_rows_are_multiplied_like_many(
    n_rows: int, shape: tuple[int, int], threads: int, rng: np.random.Generator
) -> None:
    backend = CpuBackend(threads, debug_pool=True)
    x, weight = (rng.normal(size=size).astype(np.float32) for size in ((n_rows, shape[1]), shape))
    assert_close(backend.linear(x, backend.prepare_weight(weight)), x.astype(np.float64) @ weight.T, 2e-6)
    backend.close()


def test_a_row_does_not_depend_on_those_beside_it(rng: np.random.Generator) -> None:
    backend = CpuBackend(2)
    x, weight = (rng.normal(size=size).astype(np.float32) for size in ((FEW_ROWS, 200), (999, 200)))
    whole = backend.linear(x, backend.prepare_weight(weight))
    for rows in (slice(0, 2), slice(3, 10), slice(40, 63)):
        np.testing.assert_array_equal(backend.linear(x[rows], backend.prepare_weight(weight)), whole[rows])
    backend.close()


def test_products_with_gaps_or_factors_go_another_way(rng: np.random.Generator) -> None:
    backend = CpuBackend(1)
    x, weight, out = (rng.normal(size=size).astype(np.float32) for size in ((4, 40), (9, 40), (4, 18)))
    assert_close(backend.gemm(x[:, ::2], weight[:, :20].T), x[:, ::2] @ weight[:, :20].T, 2e-6)
    backend.gemm(x, weight.T, out[:, ::2])
    assert_close(out[:, ::2], x @ weight.T, 2e-6)
    assert_close(backend.gemm(x, weight.T, alpha=0.5), 0.5 * x @ weight.T, 2e-6)
    backend.close()


@pytest.mark.parametrize("n_sequences", [1, 3])
@pytest.mark.parametrize("softcap", [0.0, 5.0])
def test_one_query_sees_the_cache_of_its_own_sequence(
    backend: Any, n_sequences: int, softcap: float, rng: np.random.Generator
) -> None:
    """Keys and values lie in a longer cache, and each sequence begins somewhere else."""
    q = rng.normal(size=(n_sequences, 1, 4, 8))
    k, v = (on(backend, rng.normal(size=(n_sequences, 12, 2, 8)))[:, :9] for _ in range(2))
    lower = np.array([[0], [4], [8]], np.int32)[:n_sequences]
    params = AttentionParams(scale=0.4, softcap=softcap, q_offset=8)
    assert_agrees(backend, "attention", q, backend.to_host(k), backend.to_host(v), lower, params)
    there = on(backend, lower)
    out, lse = backend.attention(on(backend, q), k, v, there, params)
    apart = [
        backend.attention(
            on(backend, q)[row : row + 1], k[row : row + 1], v[row : row + 1], there[row : row + 1], params
        )
        for row in range(n_sequences)
    ]
    assert_close(backend.to_host(out), np.concatenate([backend.to_host(one) for one, _ in apart]), 2e-6)
    assert_close(backend.to_host(lse), np.concatenate([backend.to_host(one) for _, one in apart]), 2e-6)


def test_keys_and_values_of_different_layout_are_read_too(rng: np.random.Generator) -> None:
    backend = CpuBackend(1)
    q, keys, values = (rng.normal(size=size).astype(np.float32) for size in ((2, 1, 2, 8), (2, 12, 2, 8), (2, 9, 2, 8)))
    params, lower = AttentionParams(scale=0.4, q_offset=8), np.zeros((2, 1), np.int32)
    found, _ = backend.attention(q, keys[:, :9], values, lower, params)
    expected, _ = backend.attention(q, keys[:, :9].copy(), values, lower, params)
    assert_close(found, expected, 2e-6)
    backend.close()

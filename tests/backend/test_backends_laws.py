"""Laws that every backend obeys, on shapes and values that hypothesis chooses."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.backend.parameters import AttentionParams, DropoutKey
from tests.backend.agreement import call, on

pytestmark = pytest.mark.property

SEEDS = st.integers(0, 2**32 - 1)
FEW = settings(max_examples=20)
"""Each example is a call of one kernel on a small array; there are four backends."""


def draw(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


@FEW
@given(seed=SEEDS, m=st.integers(1, 20), n=st.integers(1, 70), spread=st.floats(0, 1e4))
def test_softmax_rows_sum_to_one(backend: Any, seed: int, m: int, n: int, spread: float) -> None:
    (y,) = call(backend, "softmax", spread * draw(seed, m, n))
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(axis=-1), 1, atol=2e-6)


@FEW
@given(seed=SEEDS, m=st.integers(1, 20), n=st.integers(1, 70), spread=st.floats(0, 1e4))
def test_cross_entropy_gradient_rows_sum_to_zero(backend: Any, seed: int, m: int, n: int, spread: float) -> None:
    logits = on(backend, spread * draw(seed, m, n))
    labels = np.random.default_rng(seed).integers(0, n, m).astype(np.int32)
    losses = backend.cross_entropy(logits, on(backend, labels), 1.0)
    np.testing.assert_allclose(backend.to_host(logits).sum(axis=-1), 0, atol=2e-6)
    assert (backend.to_host(losses) >= 0).all()


@FEW
@given(
    seed=SEEDS,
    time=st.integers(1, 12),
    heads=st.integers(1, 5),
    n_pairs=st.integers(1, 20),
    rest=st.integers(0, 7),
    pairing=st.sampled_from(["interleaved", "halves"]),
)
def test_rope_keeps_lengths_and_is_undone_by_its_inverse(
    backend: Any, seed: int, time: int, heads: int, n_pairs: int, rest: int, pairing: str
) -> None:
    x = draw(seed, 2, time, heads, 2 * n_pairs + rest)
    angles = 7 * draw(seed + 1, 2, time, n_pairs)
    cos, sin = np.cos(angles), np.sin(angles)
    (turned,) = call(backend, "rope", x, cos, sin, pairing)
    np.testing.assert_allclose(np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)
    np.testing.assert_allclose(call(backend, "rope", turned, cos, sin, pairing, True)[0], x, atol=2e-6)


@FEW
@given(seed=SEEDS, m=st.integers(1, 9), d=st.integers(1, 70), exponent=st.integers(-10, 10))
def test_rms_norm_does_not_see_the_scale_of_a_row(backend: Any, seed: int, m: int, d: int, exponent: int) -> None:
    x, weight = draw(seed, m, d) + 0.5, draw(seed + 1, d)
    once, scaled = (call(backend, "rms_norm", factor * x, weight, 0.0)[0] for factor in (1.0, 2.0**exponent))
    np.testing.assert_allclose(scaled, once, rtol=1e-5, atol=1e-7)


@FEW
@given(
    seed=SEEDS,
    lengths=st.lists(st.integers(1, 15), min_size=1, max_size=5),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 4),
    softcap=st.sampled_from([0.0, 2.0]),
)
def test_isolated_documents_attend_as_if_each_were_alone(
    backend: Any, seed: int, lengths: list[int], kv_heads: int, group: int, softcap: float
) -> None:
    total, params = sum(lengths), AttentionParams(0.4, softcap)
    q, dout = draw(seed, 1, total, kv_heads * group, 8), draw(seed + 1, 1, total, kv_heads * group, 8)
    k, v = draw(seed + 2, 1, total, kv_heads, 8), draw(seed + 3, 1, total, kv_heads, 8)
    starts = np.concatenate([[0], np.cumsum(lengths)])
    lower = np.repeat(starts[:-1], lengths).astype(np.int32)[None]
    packed = attention_with_gradients(backend, q, k, v, dout, lower, params)
    for start, stop in pairwise(starts):
        parts = [np.ascontiguousarray(x[:, start:stop]) for x in (q, k, v, dout)]
        alone = attention_with_gradients(backend, *parts, np.zeros((1, stop - start), np.int32), params)
        for together, apart in zip(packed, alone, strict=True):
            np.testing.assert_allclose(together[:, start:stop], apart, rtol=1e-4, atol=1e-5)


def attention_with_gradients(
    backend: Any,
    q: np.ndarray,
    k: np.ndarray,
    v: np.ndarray,
    dout: np.ndarray,
    lower: np.ndarray,
    params: AttentionParams,
) -> tuple[np.ndarray, ...]:
    """out, dq, dk and dv."""
    out, lse = call(backend, "attention", q, k, v, lower, params)
    return out, *call(backend, "attention_backward", dout, q, k, v, out, lse, lower, params)


@FEW
@given(seed=SEEDS, n=st.integers(2, 30), cached=st.integers(1, 29))
def test_decoding_with_a_cache_equals_the_whole_sequence(backend: Any, seed: int, n: int, cached: int) -> None:
    cached = min(cached, n - 1)
    q, k, v = draw(seed, 2, n, 4, 8), draw(seed + 1, 2, n, 2, 8), draw(seed + 2, 2, n, 2, 8)
    zeros = np.zeros((2, n), np.int32)
    whole, _ = call(backend, "attention", q, k, v, zeros, AttentionParams(0.4))
    later, _ = call(backend, "attention", q[:, cached:], k, v, zeros[:, cached:], AttentionParams(0.4, 0.0, cached))
    np.testing.assert_allclose(later, whole[:, cached:], rtol=1e-4, atol=1e-6)


@FEW
@given(fields=st.tuples(*[st.integers(0, 2**63 - 1)] * 4), p=st.floats(0.0, 0.95))
def test_dropout_keeps_its_share_and_scales_it_up(backend: Any, fields: tuple[int, int, int, int], p: float) -> None:
    n = 20_000
    (y,) = call(backend, "dropout", np.ones(n), p, DropoutKey(*fields))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-6)
    assert abs(kept.mean() - (1 - p)) <= 5.5 * np.sqrt(p * (1 - p) / n)


@FEW
@given(seed=SEEDS, shape=st.tuples(st.integers(1, 40), st.integers(1, 40)))
def test_kernels_give_the_same_bytes_twice(backend: Any, seed: int, shape: tuple[int, int]) -> None:
    x, dy, weight = draw(seed, *shape), draw(seed + 1, *shape), draw(seed + 2, shape[1])
    _, inv_rms = call(backend, "rms_norm", x, weight, 1e-5)
    first, second = (call(backend, "rms_norm_backward", dy, x, weight, inv_rms, True) for _ in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))

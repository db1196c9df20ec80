"""Attention on every backend against the float64 reference: shapes, masks, offsets, strides, soft caps, extremes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.parameters import AttentionParams
from tests.backend.agreement import TRUTH, assert_agrees, assert_close, call, on


@dataclass(frozen=True)
class Shape:
    """Sizes of one attention call; the queries are the `n_queries` positions after `q_offset`."""

    batch: int
    n_queries: int
    n_keys: int
    heads: int
    kv_heads: int
    head_dim: int
    q_offset: int = 0

    def __str__(self) -> str:
        sizes = f"b{self.batch}-q{self.n_queries}-k{self.n_keys}-h{self.heads}-kv{self.kv_heads}-e{self.head_dim}"
        return f"{sizes}-at{self.q_offset}"


SHAPES = [
    Shape(1, 1, 1, 1, 1, 1),
    Shape(1, 17, 17, 1, 1, 16),  # less work than threads
    Shape(2, 5, 5, 4, 2, 6),
    Shape(3, 33, 33, 6, 3, 20),
    Shape(1, 40, 40, 8, 1, 12),  # one group of eight
    Shape(5, 9, 9, 3, 1, 7),
    Shape(1, 131, 131, 2, 2, 64),
    Shape(1, 300, 300, 4, 2, 16),  # more blocks of queries than kv heads
    Shape(2, 1, 40, 8, 4, 32, q_offset=39),  # decoding
    Shape(1, 7, 50, 5, 1, 8, q_offset=43),  # a chunk of a prompt
    Shape(2, 7, 64, 4, 2, 8, q_offset=20),  # keys beyond the last query
    Shape(1, 70, 200, 4, 4, 24, q_offset=130),
]

MASKS = ["causal", "window 1", "window 5", "documents", "documents and window"]


def lower_of(shape: Shape, mask: str, rng: np.random.Generator) -> np.ndarray:
    """The first key that each query may see, int32 [B, Tq]."""
    index = np.arange(shape.n_queries) + shape.q_offset
    lower = np.zeros((shape.batch, shape.n_queries), np.int64)
    if "documents" in mask:
        begins = np.cumsum(rng.random((shape.batch, shape.n_keys)) < 0.15, axis=1)
        first = np.stack([np.searchsorted(row, row) for row in begins])  # index where the document of a key begins
        lower = first[:, index]
    if "window" in mask:
        width = int(mask[-1]) if mask[-1].isdigit() else 4
        lower = np.maximum(lower, index - width + 1)
    return lower.astype(np.int32)


def inputs(shape: Shape, rng: np.random.Generator) -> list[np.ndarray]:
    """q, k, v and dout."""
    q_shape = (shape.batch, shape.n_queries, shape.heads, shape.head_dim)
    kv_shape = (shape.batch, shape.n_keys, shape.kv_heads, shape.head_dim)
    return [rng.normal(size=size) for size in (q_shape, kv_shape, kv_shape, q_shape)]


def check_both_directions(backend: Any, arrays: list[np.ndarray], lower: np.ndarray, params: AttentionParams) -> None:
    q, k, v, dout = arrays
    out, lse = assert_agrees(backend, "attention", q, k, v, lower, params)
    assert_agrees(backend, "attention_backward", dout, q, k, v, out, lse, lower, params, tolerance=2e-5, terms=1.0)


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_and_its_gradients(backend: Any, shape: Shape, mask: str, rng: np.random.Generator) -> None:
    params = AttentionParams(shape.head_dim**-0.5, q_offset=shape.q_offset)
    check_both_directions(backend, inputs(shape, rng), lower_of(shape, mask, rng), params)


@pytest.mark.parametrize("mask", ["causal", "documents and window"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_soft_cap_and_scale(backend: Any, shape: Shape, mask: str, rng: np.random.Generator) -> None:
    params = AttentionParams(scale=1.7, softcap=3.0, q_offset=shape.q_offset)
    check_both_directions(backend, inputs(shape, rng), lower_of(shape, mask, rng), params)


@pytest.mark.parametrize("group", range(1, 9))
def test_every_group_size(backend: Any, group: int, rng: np.random.Generator) -> None:
    shape = Shape(2, 19, 19, 2 * group, 2, 10)
    check_both_directions(backend, inputs(shape, rng), lower_of(shape, "causal", rng), AttentionParams(0.4))


def test_the_same_call_gives_the_same_bytes(backend: Any, rng: np.random.Generator) -> None:
    q, k, v, dout = inputs(Shape(1, 300, 300, 4, 2, 16), rng)
    lower, params = np.zeros((1, 300), np.int32), AttentionParams(0.25)
    runs = []
    for _ in range(3):
        out, lse = call(backend, "attention", q, k, v, lower, params)
        gradients = call(backend, "attention_backward", dout, q, k, v, out, lse, lower, params)
        runs.append([array.tobytes() for array in (out, lse, *gradients)])
    assert runs[0] == runs[1] == runs[2]


def test_keys_and_values_may_be_views_of_a_longer_cache(backend: Any, rng: np.random.Generator) -> None:
    q, dout = rng.normal(size=(2, 3, 4, 8)), rng.normal(size=(2, 3, 4, 8))
    k_cache, v_cache = rng.normal(size=(2, 50, 2, 8)), rng.normal(size=(2, 50, 2, 8))
    k_cache[:, 21:], v_cache[:, 21:] = np.nan, np.nan
    lower, params = np.zeros((2, 3), np.int32), AttentionParams(0.4, q_offset=18)
    compact = (q, k_cache[:, :21], v_cache[:, :21])
    out, lse = call(TRUTH, "attention", *compact, lower, params)
    views = on(backend, q), on(backend, k_cache)[:, :21], on(backend, v_cache)[:, :21]
    actual, actual_lse = backend.attention(*views, on(backend, lower), params)
    assert_close(backend.to_host(actual), out, 5e-6, "out")
    assert_close(backend.to_host(actual_lse), lse, 5e-6, "lse")
    truths = call(TRUTH, "attention_backward", dout, *compact, out, lse, lower, params)
    actuals = backend.attention_backward(on(backend, dout), *views, actual, actual_lse, on(backend, lower), params)
    for gradient, truth in zip(actuals, truths, strict=True):
        assert gradient.flags.c_contiguous
        assert_close(backend.to_host(gradient), truth, 2e-5)


def test_keys_and_values_may_be_parts_of_one_projection(backend: Any, rng: np.random.Generator) -> None:
    q, joint, lower = rng.normal(size=(2, 9, 4, 8)), rng.normal(size=(2, 9, 2, 2, 8)), np.zeros((2, 9), np.int32)
    there = on(backend, joint)
    actual, _ = backend.attention(
        on(backend, q), there[:, :, 0], there[:, :, 1], on(backend, lower), AttentionParams(0.4)
    )
    truth = call(TRUTH, "attention", q, joint[:, :, 0].copy(), joint[:, :, 1].copy(), lower, AttentionParams(0.4))[0]
    assert_close(backend.to_host(actual), truth, 5e-6)


def test_scores_far_beyond_what_exp_can_hold(backend: Any, rng: np.random.Generator) -> None:
    """At ±1e4 a float32 score is good to about 1e-3, and so are the weights; nothing may overflow."""
    q, k, v, dout = inputs(Shape(2, 20, 20, 4, 2, 8), rng)
    lower, params = np.zeros((2, 20), np.int32), AttentionParams(1.0)
    arrays = [60 * q, 60 * k, v]
    out, lse = assert_agrees(backend, "attention", *arrays, lower, params, tolerance=5e-3)
    gradients = call(backend, "attention_backward", dout, *arrays, out, lse, lower, params)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_equal_huge_scores_average_the_values(backend: Any) -> None:
    q, k = np.full((1, 9, 1, 4), 50.0), np.full((1, 9, 1, 4), 50.0)
    v = np.arange(9.0).reshape(1, 9, 1, 1) * np.ones(4)
    out, _ = call(backend, "attention", q, k, v, np.zeros((1, 9), np.int32), AttentionParams(1.0))
    np.testing.assert_allclose(out[0, :, 0, 0], np.arange(9) / 2, rtol=1e-6)


def test_nan_in_a_query_spoils_that_query_alone(backend: Any, rng: np.random.Generator) -> None:
    q, k, v, _ = inputs(Shape(2, 12, 12, 4, 2, 8), rng)
    q[1, 5, 2, 3] = np.nan
    with np.errstate(invalid="ignore"):
        out, _ = assert_agrees(backend, "attention", q, k, v, np.zeros((2, 12), np.int32), AttentionParams(0.4))
    assert np.isnan(out).sum() == 8


def test_nan_in_a_key_spoils_the_queries_that_see_it(backend: Any, rng: np.random.Generator) -> None:
    q, k, v, _ = inputs(Shape(1, 12, 12, 2, 2, 8), rng)
    k[0, 4, 1, 0] = np.nan
    lower = np.array([[0, 0, 0, 3, 3, 3, 3, 7, 7, 7, 7, 7]], np.int32)
    with np.errstate(invalid="ignore"):
        out, _ = assert_agrees(backend, "attention", q, k, v, lower, AttentionParams(0.4))
    assert np.isnan(out[0, 4:7, 1]).all()
    assert np.isfinite(np.delete(out[0, :, 1], [4, 5, 6], axis=0)).all()

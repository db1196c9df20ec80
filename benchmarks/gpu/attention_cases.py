"""Attention forward and backward: grouped heads, documents, windows, soft caps, offsets, and long sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.gpu.compare import Activation, Call, Draw, Finding, place, relative_error, worse
from benchmarks.gpu.sizes import AttentionSize
from benchmarks.gpu.subject import DTYPES, TRUTH, Subject
from entrenar_core.backend.parameters import AttentionParams

NDArray = np.ndarray[Any, np.dtype[Any]]

MASKS = ("causal", "window", "documents", "documents and window")
WINDOW = 4


@dataclass(frozen=True)
class Case:
    """float64 values of one call, as the element type of activations holds them."""

    q: NDArray
    k: NDArray
    v: NDArray
    dout: NDArray
    lower: NDArray
    params: AttentionParams


def case_of(size: AttentionSize, mask: str, draw: Draw, softcap: float = 0.0) -> Case:
    """Random q, k, v and dout, and the first key that each query sees."""
    q_shape = (size.batch, size.queries, size.heads, size.head_dim)
    kv_shape = (size.batch, size.keys, size.kv_heads, size.head_dim)
    q, k, v, dout = (draw.rounded(draw.normal(*shape)) for shape in (q_shape, kv_shape, kv_shape, q_shape))
    params = AttentionParams(size.head_dim**-0.5, softcap, size.keys - size.queries)
    return Case(q, k, v, dout, lower_of(size, mask, draw.rng), params)


def lower_of(size: AttentionSize, mask: str, rng: np.random.Generator) -> NDArray:
    """int32 [B, Tq]; documents are about seven keys long, or a fifth of a long row."""
    index = np.arange(size.queries) + size.keys - size.queries
    lower = np.zeros((size.batch, size.queries), np.int64)
    if "documents" in mask:
        begins = np.cumsum(rng.random((size.batch, size.keys)) < max(0.15 * 50 / size.keys, 5 / size.keys), axis=1)
        lower = np.stack([np.searchsorted(row, row) for row in begins])[:, index]
    if "window" in mask:
        lower = np.maximum(lower, index - max(WINDOW, size.keys // 5) + 1)
    return lower.astype(np.int32)


def against_the_reference(draw: Draw) -> Iterator[Call]:
    for size in draw.sizes.attention:
        for mask in MASKS:
            for softcap in (0.0, 3.0):
                one = case_of(size, mask, draw, softcap)
                yield from _both_directions(one, "attention, soft cap" if softcap else f"attention, {mask}", draw)


def _both_directions(one: Case, label: str, draw: Draw) -> Iterator[Call]:
    q, k, v, dout = (Activation(values) for values in (one.q, one.k, one.v, one.dout))
    yield Call("attention", (q, k, v, one.lower, one.params), label=label)
    out, lse = TRUTH.attention(one.q, one.k, one.v, one.lower, one.params)
    results = Activation(draw.rounded(out)), lse.astype(np.float32).astype(np.float64)
    arguments = (dout, q, k, v, *results, one.lower, one.params)
    yield Call("attention_backward", arguments, label=f"{label}, backward", terms=float(np.abs(one.dout).max()))


def long_sequences(subject: Subject) -> Iterator[Finding]:
    """Held against dense formulas, whose cost is that of a few matrix products."""
    for dtype in DTYPES:
        for mask in ("causal", "documents"):
            found: list[Finding] = []
            for size in subject.sizes.long_attention:
                draw = Draw(dtype, subject.sizes, np.random.default_rng(29))
                found.extend(_long(subject, case_of(size, mask, draw), dtype, f"long attention, {mask}"))
            forward, backward = found[::2], found[1::2]
            yield _together(forward)
            yield _together(backward)


def _together(findings: list[Finding]) -> Finding:
    first = findings[0]
    for other in findings[1:]:
        first = worse(first, other)
    return first


def _long(subject: Subject, one: Case, dtype: str, label: str) -> Iterator[Finding]:
    backend = subject.backends[dtype]
    q, k, v, dout = (place(backend, Activation(values)) for values in (one.q, one.k, one.v, one.dout))
    lower = backend.asarray(one.lower)
    out, lse = backend.attention(q, k, v, lower, one.params)
    gradients = backend.attention_backward(dout, q, k, v, out, lse, lower, one.params)
    truth, truth_lse, truth_gradients = dense_attention(one)
    tolerance = _TOLERANCE[dtype]
    error = max(relative_error(backend.to_host(out), truth), relative_error(backend.to_host(lse), truth_lse))
    yield Finding(label, dtype, error, tolerance)
    terms = float(np.abs(one.dout).max())
    errors = [relative_error(backend.to_host(a), b, terms) for a, b in zip(gradients, truth_gradients, strict=True)]
    yield Finding(f"{label}, backward", dtype, max(errors), tolerance)


_TOLERANCE = {"float32": 1e-5, "bfloat16": 1e-2}


def dense_attention(one: Case) -> tuple[NDArray, NDArray, tuple[NDArray, NDArray, NDArray]]:
    """out, log-sum-exp and the gradients of q, k and v, in float64, with every score of a head at once; no soft cap."""
    n_queries, n_heads = one.q.shape[1:3]
    n_keys, n_kv = one.k.shape[1:3]
    out, lse = np.empty_like(one.q), np.empty((len(one.q), n_heads, n_queries))
    dq, dk, dv = np.empty_like(one.q), np.zeros_like(one.k), np.zeros_like(one.v)
    last, keys = np.arange(n_queries)[:, None] + one.params.q_offset, np.arange(n_keys)
    for b, h in np.ndindex(len(one.q), n_heads):
        kv = h // (n_heads // n_kv)
        q, k, v, dout = one.q[b, :, h], one.k[b, :, kv], one.v[b, :, kv], one.dout[b, :, h]
        seen = (keys >= one.lower[b][:, None]) & (keys <= last)
        scores = np.where(seen, q @ k.T * one.params.scale, -np.inf)
        top = scores.max(axis=1, keepdims=True)
        weights = np.exp(scores - top)
        total = weights.sum(axis=1, keepdims=True)
        weights /= total
        lse[b, h] = (top + np.log(total))[:, 0]
        out[b, :, h] = weights @ v
        dscores = weights * (dout @ v.T - (dout * out[b, :, h]).sum(axis=1, keepdims=True)) * one.params.scale
        dq[b, :, h] = dscores @ k
        dk[b, :, kv] += dscores.T @ q
        dv[b, :, kv] += weights.T @ dout
    return out, lse, (dq, dk, dv)

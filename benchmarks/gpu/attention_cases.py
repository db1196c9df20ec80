"""Attention forward and backward: grouped heads, documents, windows, soft caps, offsets, and long sequences.

Each call goes every way that the backend has: from matrix products, and by the library where it serves the call, with
gradients that may differ in their last bits from time to time, and with those that may not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.gpu.compare import TOLERANCE, Activation, Call, Draw, Finding, ask, place, relative_error, worse
from benchmarks.gpu.sizes import AttentionSize
from benchmarks.gpu.subject import DTYPES, TRUTH, Subject
from entrenar_core.backend.cuda_attention import TOKEN_BY_TOKEN
from entrenar_core.backend.documents import HostLower
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
    lower = lower_of(size, mask, draw.rng)
    params = AttentionParams(size.head_dim**-0.5, softcap, size.keys - size.queries, HostLower(lower))
    return Case(q, k, v, dout, lower, params)


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


def ways(subject: Subject) -> Iterator[tuple[str, Subject, bool]]:
    """What each way is called, who goes it, and whether it is the library's."""
    yield "from products", subject.without_library, False
    yield "by the library", subject, True
    yield "by the library, same bits", subject.same_each_time, True


def against_the_reference(subject: Subject) -> Iterator[Finding]:
    """Short sequences of every kind, each way that serves them."""
    for way, who, is_library in ways(subject):
        for dtype in DTYPES[1:] if is_library else DTYPES:
            found: dict[str, Finding] = {}
            draw = Draw(dtype, subject.sizes, np.random.default_rng(17))
            for call in reference_calls(draw):
                one = ask(who, call, dtype, twice=not is_library or who.deterministic)
                if not is_library or was_library(who.backends[dtype]):
                    name = f"{call.label}, {way}"
                    one = replace(one, name=name)
                    found[name] = one if name not in found else worse(found[name], one)
            yield from found.values() if found else [refused(way, who, dtype)]


def paths_since(backend: Any) -> set[str]:
    """Which ways attention has gone since the last question."""
    paths = set(backend.attention_paths)
    backend.attention_paths.clear()
    return paths


def is_our_own(path: str) -> bool:
    """Whether kernels of this project went it."""
    return path == TOKEN_BY_TOKEN or path.startswith("blocked")


def was_library(backend: Any) -> bool:
    """Whether all attention since the last question went to the library."""
    return not any(is_our_own(path) for path in paths_since(backend))


def refused(way: str, subject: Subject, dtype: str) -> Finding:
    """A line for a way that nothing went: there is no library, or it serves none of the calls."""
    reason = subject.sdpa if isinstance(subject.sdpa, str) else "it serves none of the calls"
    return Finding(f"attention, {way}", dtype, 0.0, 0.0, tried=0, not_measured=reason)


def reference_calls(draw: Draw) -> Iterator[Call]:
    for size in draw.sizes.attention:
        for mask in MASKS:
            for softcap in (0.0, 3.0):
                one = case_of(size, mask, draw, softcap)
                yield from _both_directions(one, "attention, soft cap" if softcap else f"attention, {mask}", draw)


def _both_directions(one: Case, label: str, draw: Draw) -> Iterator[Call]:
    q, k, v, dout = (Activation(values) for values in (one.q, one.k, one.v, one.dout))
    arguments: tuple[Any, ...] = (q, k, v, one.lower, one.params)
    yield Call("attention", arguments, label=label, tolerance=_TOLERANCE[draw.dtype])
    out, lse = TRUTH.attention(one.q, one.k, one.v, one.lower, one.params)
    results = Activation(draw.rounded(out)), lse.astype(np.float32).astype(np.float64)
    arguments = (dout, q, k, v, *results, one.lower, one.params)
    yield Call("attention_backward", arguments, label=f"{label}, backward", terms=float(np.abs(one.dout).max()))


_TOLERANCE = {"float32": TOLERANCE, "bfloat16": TOLERANCE | {"float32": 1e-4}}
"""By the type of activations: the log-sum-exp is float32, but libraries take exponentials as graphics do."""


def long_sequences(subject: Subject) -> Iterator[Finding]:
    """Held against dense formulas, whose cost is that of a few matrix products."""
    for dtype in DTYPES:
        for mask in ("causal", "documents"):
            draw = Draw(dtype, subject.sizes, np.random.default_rng(29))
            found: dict[str, Finding] = {}
            for size in subject.sizes.long_attention:
                one = case_of(size, mask, draw)
                truth = dense_attention(one)
                for way, who, is_library in ways(subject):
                    for finding in _long(who.backends[dtype], one, truth, dtype, f"long attention, {mask}", way):
                        if not is_library or was_library(who.backends[dtype]):
                            name = finding.name
                            found[name] = finding if name not in found else worse(found[name], finding)
            yield from found.values()


def _long(backend: Any, one: Case, truth: Dense, dtype: str, label: str, way: str) -> Iterator[Finding]:
    q, k, v, dout = (place(backend, Activation(values)) for values in (one.q, one.k, one.v, one.dout))
    lower = backend.asarray(one.lower)
    out, lse = backend.attention(q, k, v, lower, one.params)
    error = max(relative_error(backend.to_host(out), truth.out), relative_error(backend.to_host(lse), truth.lse))
    yield Finding(f"{label}, {way}", dtype, error, TOLERANCE[dtype])
    gradients = backend.attention_backward(dout, q, k, v, out, lse, lower, one.params)
    terms = float(np.abs(one.dout).max())
    errors = [relative_error(backend.to_host(a), b, terms) for a, b in zip(gradients, truth.gradients, strict=True)]
    yield Finding(f"{label}, backward, {way}", dtype, max(errors), TOLERANCE[dtype])


@dataclass(frozen=True)
class Dense:
    """float64 values: out [B, T, H, E], the log-sum-exp [B, H, T], and the gradients of q, k and v."""

    out: NDArray
    lse: NDArray
    gradients: tuple[NDArray, NDArray, NDArray]


def dense_attention(one: Case) -> Dense:
    """With every score of a head at once; no soft cap."""
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
    return Dense(out, lse, (dq, dk, dv))

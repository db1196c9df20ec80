"""Every kernel of a backend called once, for the tests that hold whatever a kernel computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from entrenar_core.backend.parameters import (
    AdamParams,
    AttentionParams,
    DistillationParams,
    DivergenceKind,
    DropoutKey,
    SGDParams,
)
from tests.autograd.distillation_cases import KINDS

NDArray = np.ndarray[Any, np.dtype[Any]]

# Work large enough for every thread to get a part, in sizes that divide by nothing.
ROWS, WIDTH = 307, 523
ATTENTION = AttentionParams(scale=0.2)


def distil(backend: Any, logits: NDArray, teacher: NDArray, targets: NDArray, kind: DivergenceKind) -> tuple[Any, ...]:
    """Both kernels' values and gradients, where the teacher knows half of the tokens, or three of those, or all."""
    if kind != "logit_mse":
        backend.log_softmax(teacher, 1.5)
    dense, sparse = logits.copy(), logits.copy()
    params, n = DistillationParams(kind, temperature=1.5, alpha=0.5), teacher.shape[1]
    ids = backend.asarray(np.tile(np.arange(3, dtype=np.int32), (len(logits), 1)))
    values = backend.to_host(teacher)
    tail = np.log(np.exp(values[:, 3:]).sum(axis=-1))
    known = ids, backend.asarray(values[:, :3]), backend.asarray(tail), n
    by_column = backend.distillation(dense, teacher, targets, None, params, 0.5)
    by_ids = backend.distillation_top_k(sparse, *known, targets, None, params, 0.5)
    backward = backend.asarray(np.tile(np.arange(n, dtype=np.int32)[::-1], (len(logits), 1)))
    by_all = backend.distillation_top_k(logits, backward, teacher, known[2], n, targets, None, params, 0.5)
    return teacher, *by_column, dense, *by_ids, sparse, *by_all, logits


def call_every_kernel(backend: Any, rows: int, width: int) -> dict[str, NDArray]:
    """The results of every kernel, on inputs that depend on the sizes alone."""
    return _call_all_but_attention(backend, rows, width) | _call_attention(backend, rows)


def _drawing(backend: Any, rng: np.random.Generator) -> Callable[..., Any]:
    """Makes normal arrays of the shape asked for."""
    return lambda *shape: backend.asarray(rng.standard_normal(shape).astype(np.float32))


def _on_host(backend: Any, results: dict[str, Any]) -> dict[str, NDArray]:
    """Copies of results, each by its name and a number."""
    return {
        f"{name} {index}": np.array(backend.to_host(each) if isinstance(each, backend.xp.ndarray) else each)
        for name, result in results.items()
        for index, each in enumerate(result if isinstance(result, tuple) else (result,))
    }


def _call_all_but_attention(backend: Any, rows: int, width: int) -> dict[str, NDArray]:
    rng = np.random.default_rng([rows, width])
    draw = _drawing(backend, rng)
    x, dy, up, weight, bias = draw(rows, width), draw(rows, width), draw(rows, width), draw(width), draw(width)
    ids = backend.asarray(rng.integers(0, 11, rows).astype(np.int32))
    results: dict[str, Any] = {}
    for kind in ("relu", "gelu", "gelu_tanh", "silu"):
        results[kind] = backend.activation(kind, x)
        results[f"{kind} backward"] = backend.activation_backward(kind, dy, x)
    results["add"], results["multiply"] = backend.add(x, dy), backend.multiply(x, dy)
    results["scale"] = backend.scale(x, 0.3)
    results["swiglu"], results["swiglu backward"] = backend.swiglu(x, up), backend.swiglu_backward(dy, x, up)
    y, inv_rms = backend.rms_norm(x, weight, 1e-5)
    results["rms norm"] = y, *backend.rms_norm_backward(dy, x, weight, inv_rms, True)
    y, mean, inv_std = backend.layer_norm(x, weight, bias, 1e-5)
    results["layer norm"] = y, mean, inv_std, *backend.layer_norm_backward(dy, x, weight, mean, inv_std)
    results["softmax"] = backend.softmax(x)
    results["softmax backward"] = backend.softmax_backward(dy, results["softmax"])
    table = draw(11, width)
    results["embedding"] = backend.embedding(table, ids)
    backend.embedding_backward(dy, ids, table)
    results["embedding backward"] = table
    logits = draw(rows, width)
    results["cross entropy"] = backend.cross_entropy(logits, ids, None), backend.cross_entropy(logits, ids, 0.5), logits
    for kind in KINDS:
        results[kind] = distil(backend, draw(rows, width), draw(rows, width // 2), ids, kind)
    columns, added = backend.asarray(rng.permutation(width)[: width // 2].astype(np.int32)), draw(rows, width)
    backend.add_to_columns(added, columns, draw(rows, width // 2))
    results["columns"] = backend.take_columns(x, columns), added
    results["dropout"] = backend.dropout(x, 0.4, DropoutKey(1, 2, 3, 4))
    results["gemm"] = backend.gemm(x, dy.T), backend.gemm(x.T, dy), backend.gemm(x, dy.T, alpha=0.5)
    out = draw(width, width)
    results["gemm accumulated"] = backend.gemm(x.T, dy, out, alpha=0.5, beta=2.0)

    parameter, m, moving = draw(rows, width), draw(rows, width), draw(rows, width)
    v = backend.multiply(m, m)
    adam = AdamParams(lr=1e-2, beta1=0.9, beta2=0.99, eps=1e-8, weight_decay=0.1, decoupled=True, step=2)
    clipping = backend.plan_clipping([dy, x], max_norm=1.0, loss=2.0)
    backend.adam_steps([(parameter, dy, m, v)], adam, clipping)
    sgd = SGDParams(lr=1e-2, momentum=0.9, nesterov=True, weight_decay=0.1, first_step=False)
    other = draw(rows, width)
    backend.sgd_steps([(parameter, dy, moving), (other, x, None)], sgd)
    results["optimizers"] = parameter, m, v, moving, other
    results["clipping"] = np.array([clipping.read().loss, clipping.read().norm])
    results["reductions"] = np.array([backend.sum_of_squares(x), backend.all_finite(x)])
    q = draw(2, rows // 2 + 2, 4, 6)
    cos, sin = draw(2, rows // 2 + 2, 2), draw(2, rows // 2 + 2, 2)
    results["rope"] = backend.rope(q, cos, sin, "interleaved"), backend.rope(q, cos, sin, "halves", inverse=True)
    return _on_host(backend, results)


def _call_attention(backend: Any, rows: int) -> dict[str, NDArray]:
    draw, n_queries = _drawing(backend, np.random.default_rng(rows)), rows // 2 + 2
    q, k, dout = draw(2, n_queries, 4, 6), draw(2, n_queries, 2, 6), draw(2, n_queries, 4, 6)
    lower = backend.asarray(np.maximum(0, np.arange(n_queries) - 40)[None].repeat(2, axis=0).astype(np.int32))
    results: dict[str, Any] = {}
    for name, params in (("attention", ATTENTION), ("soft-capped attention", AttentionParams(0.2, softcap=2.0))):
        out, lse = backend.attention(q, k, k, lower, params)
        results[name] = out, lse, *backend.attention_backward(dout, q, k, k, out, lse, lower, params)
    return _on_host(backend, results)

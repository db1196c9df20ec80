"""Calls of the kernels between matrix products: elementwise, over rows, rope, embedding, dropout; and the products."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.compare import Activation, Call, Draw, Finding, Viewed, different, rounded
from benchmarks.gpu.subject import TRUTH, Subject
from entrenar_core.backend.parameters import DropoutKey

ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")


def elementwise(draw: Draw) -> Iterator[Call]:
    for shape in draw.sizes.flat:
        a, b = draw.activation(*shape), draw.activation(*shape)
        yield Call("add", (a, b))
        yield Call("multiply", (a, b))
        yield Call("scale", (a, -0.37))
        kept = draw.rng.random(shape) < 0.5
        yield Call("keep_where", (a, kept), exact=True)
        if len(shape) > 1:
            yield Call("add_bias", (a, draw.normal(shape[-1])), changed=(0,))
    for shape in draw.sizes.rows:
        yield Call("sum_rows", (draw.activation(*shape),), terms=float(np.sqrt(shape[0])))


def products(draw: Draw) -> Iterator[Call]:
    for m, inner, n in draw.sizes.products:
        a, b, dc = draw.activation(m, inner), draw.activation(inner, n), draw.activation(m, n)
        turned_a, turned_b = Viewed(draw.activation(inner, m), _turned), Viewed(draw.activation(n, inner), _turned)
        terms = float(np.sqrt(inner))
        yield Call("gemm", (a, b), label="gemm", terms=terms)
        yield Call("gemm", (turned_a, b), label="gemm", terms=terms)
        yield Call("gemm", (a, turned_b), {"alpha": 0.5}, label="gemm", terms=terms)
        out = draw.normal(n, inner)
        weight_grad = (Viewed(dc, _turned), a, out)
        options = {"alpha": 0.5, "beta": 1.0}
        yield Call("gemm", weight_grad, options, "gemm added to float32", changed=(2,), terms=float(np.sqrt(m)))
        cut = draw.activation(m, inner + 24), draw.activation(inner + 24, n + 8)
        views = Viewed(cut[0], lambda x: x[:, 8:-16]), Viewed(cut[1], lambda x: x[8:-16, :-8])
        yield Call("gemm", views, label="gemm of views", terms=terms)
        weight = draw.weight(n, inner)
        yield Call("linear", (a, weight), terms=terms)
        yield Call("linear_input_grad", (dc, weight), terms=float(np.sqrt(n)))


def norms(draw: Draw) -> Iterator[Call]:
    for shape in draw.sizes.rows:
        x, dy, bias = draw.activation(*shape), draw.activation(*shape), draw.normal(shape[1])
        weight = draw.normal(shape[1])
        yield Call("rms_norm", (x, weight, 1e-5))
        inverse = _float32(TRUTH.rms_norm(x.values, weight, 1e-5)[1])
        terms = float(inverse.max() * np.sqrt(max(shape[0], 1)))
        for need_weight in (True, False):
            yield Call("rms_norm_backward", (dy, x, weight, inverse, need_weight), terms=terms)
        yield Call("layer_norm", (x, weight, bias, 0.1))
        _, mean, inverse = TRUTH.layer_norm(x.values, weight, bias, 0.1)
        statistics = _float32(mean), _float32(inverse)
        yield Call("layer_norm_backward", (dy, x, weight, *statistics), terms=float(inverse.max() * np.sqrt(shape[0])))


def activations(draw: Draw) -> Iterator[Call]:
    for kind in ACTIVATIONS:
        for shape in draw.sizes.slow_flat:
            x, dy = Activation(draw.rounded(3 * draw.normal(*shape))), draw.activation(*shape)
            yield Call("activation", (kind, x), label=kind)
            yield Call("activation_backward", (kind, dy, x), label=f"{kind} backward")
    for shape in draw.sizes.flat:
        up, dy = draw.activation(*shape), draw.activation(*shape)
        gate = Activation(draw.rounded(4 * draw.normal(*shape)))
        yield Call("swiglu", (gate, up))
        yield Call("swiglu_backward", (dy, gate, up))


def softmaxes(draw: Draw) -> Iterator[Call]:
    for shape in draw.sizes.rows:
        x, dy = Activation(draw.rounded(3 * draw.normal(*shape))), draw.activation(*shape)
        yield Call("softmax", (x,))
        y = Activation(draw.rounded(TRUTH.softmax(x.values)))
        yield Call("softmax_backward", (dy, y), terms=float(y.values.max()))


def rope(draw: Draw) -> Iterator[Call]:
    shapes = [((2, 5, 3, 9), 3), ((1, 200, 4, 80), 20)]
    if len(draw.sizes.flat) > 2:
        shapes.append(((2, 1031, 32, 128), 64))
    for shape, n_pairs in shapes:
        x, angles = draw.activation(*shape), 10 * draw.normal(*shape[:2], n_pairs)
        turns = _float32(np.cos(angles)), _float32(np.sin(angles))
        for pairing in ("interleaved", "halves"):
            for inverse in (False, True):
                yield Call("rope", (x, *turns, pairing, inverse), label=f"rope {pairing}")


def embeddings(draw: Draw) -> Iterator[Call]:
    for n_tokens, vocab, width in (
        (37, 11, 13),
        (700, 3001, 24),
        *((5003, each[1], 256) for each in draw.sizes.logits[2:3]),
    ):
        table, ids = draw.normal(vocab, width), draw.ids(n_tokens, vocab)
        dy = draw.activation(n_tokens, width)
        yield Call("embedding", (table, ids))
        yield Call("embedding_backward", (dy, ids, table), changed=(2,), terms=1.0)
        rows = draw.activation(vocab, width)
        yield Call("take_rows", (rows, ids), exact=True)
        some = draw.places(min(n_tokens, vocab), vocab)
        yield Call("put_rows", (some, draw.activation(len(some), width), rows), changed=(2,), exact=True)
    arguments = Activation(np.ones((999, 70))), np.ones(999, np.int32), np.zeros((3, 70))
    yield Call("embedding_backward", arguments, label="embedding_backward of one token", changed=(2,))


def dropout(draw: Draw) -> Iterator[Call]:
    """Ones, so that what is left is the mask."""
    for shape in draw.sizes.flat:
        for p in (0.0, 0.1, 0.5):
            ones, key = Activation(np.ones(shape)), DropoutKey(1, 2, 3, 4)
            yield Call("dropout", (ones, p, key), label="dropout", tolerance={"float32": 1e-6, "bfloat16": 4e-3})


def _turned(matrix: Any) -> Any:
    return matrix.T


def _float32(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32).astype(np.float64)


def casts(subject: Subject) -> Iterator[Finding]:
    """To bfloat16 and back, where what lies between two numbers goes to the even one."""
    special = [0.0, -0.0, np.inf, -np.inf, np.nan, 1.00390625, 1.01171875, 3.3e38, 1e-40]
    values = np.append(np.random.default_rng(3).standard_normal(100_003), special).astype(np.float32)
    backend = subject.backends["bfloat16"]
    found = backend.to_host(backend.cast(backend.asarray(values), backend.compute_dtype))
    yield Finding("cast and back", "bfloat16", different(found, rounded(values, "bfloat16")), 0.0)

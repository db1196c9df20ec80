"""Every op on small inputs of awkward shapes, for the tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from entrenar_core.autograd.ops import (
    activation,
    attention,
    dropout,
    elementwise,
    embedding,
    loss,
    low_rank,
    matmul,
    norm,
    reduce,
    rope,
    shape,
)
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.parameters import AttentionParams, DropoutKey
from tests.autograd.distillation_cases import distillation_cases

KEY = DropoutKey(seed=1, step=2, micro_batch=0, module=3)
IDS = np.array([[0, 3, 3], [1, 4, 0]], dtype=np.int32)
LABELS = np.array([2, -100, 0, 4, -100, 1], dtype=np.int32)
TARGETS = np.array([0.5, -1.0, 2.0, 0.0])
LOWER = np.array([[0, 0, 0, 3, 3], [0, 1, 1, 2, 3]], dtype=np.int32)

OpCase = tuple[Callable[..., Tensor], list[np.ndarray]]
"""A function of tensors, and the values of one tensor for each of its arguments."""


def op_cases(backend: Backend) -> dict[str, OpCase]:
    """The cases by name; frozen weights and angles lie on `backend`, values are float64 and always the same."""
    rng = np.random.default_rng(7)

    def normal(*sizes: int) -> np.ndarray:
        return rng.standard_normal(sizes)

    def positive(*sizes: int) -> np.ndarray:
        return rng.uniform(0.5, 2.0, sizes)

    angles = normal(2, 5, 2)
    cos, sin = backend.asarray(np.cos(angles)), backend.asarray(np.sin(angles))
    ids, lower, targets = (backend.asarray(each) for each in (IDS, LOWER, TARGETS))
    frozen = backend.prepare_weight(backend.asarray(normal(4, 3)))
    frozen_head = backend.prepare_weight(backend.asarray(normal(5, 3)))
    return {
        "add": (elementwise.add, [normal(3, 4), normal(3, 4)]),
        "add broadcast": (elementwise.add, [normal(2, 3, 4), normal(3, 1)]),
        "add itself": (lambda x: elementwise.add(x, x), [normal(3)]),
        "subtract broadcast": (elementwise.subtract, [normal(4), normal(3, 4)]),
        "multiply": (elementwise.multiply, [normal(3, 4), normal(3, 4)]),
        "multiply broadcast": (elementwise.multiply, [normal(3, 1), normal(1, 4)]),
        "divide": (elementwise.divide, [normal(3, 4), positive(4)]),
        "scale": (lambda x: elementwise.scale(x, -2.5), [normal(3, 4)]),
        "exp": (elementwise.exp, [normal(5)]),
        "log": (elementwise.log, [positive(5)]),
        "sqrt": (elementwise.sqrt, [positive(5)]),
        "power": (lambda x: elementwise.power(x, 3.0), [normal(5)]),
        "tanh": (elementwise.tanh, [normal(5)]),
        "sum all": (reduce.sum_, [normal(3, 4)]),
        "sum axis": (lambda x: reduce.sum_(x, 1), [normal(3, 4, 2)]),
        "sum axes keepdims": (lambda x: reduce.sum_(x, (0, 2), keepdims=True), [normal(3, 4, 2)]),
        "mean all": (reduce.mean, [normal(3, 4)]),
        "mean axis": (lambda x: reduce.mean(x, (0, 1)), [normal(3, 4, 2)]),
        "max axis": (lambda x: reduce.maximum(x, 1), [normal(3, 4)]),
        "max all": (reduce.maximum, [normal(3, 4)]),
        "reshape": (lambda x: shape.reshape(x, (2, -1)), [normal(3, 4)]),
        "transpose": (lambda x: shape.transpose(x, (2, 0, 1)), [normal(2, 3, 4)]),
        "slice": (lambda x: shape.slice_(x, (slice(1, 3), ..., 0)), [normal(4, 3, 2)]),
        "concatenate": (lambda a, b: shape.concatenate([a, b], axis=1), [normal(2, 3), normal(2, 2)]),
        "broadcast_to": (lambda x: shape.broadcast_to(x, (5, 3, 4)), [normal(3, 1)]),
        "broadcast_to same": (lambda x: shape.broadcast_to(x, (3, 4)), [normal(3, 4)]),
        "matmul": (matmul.matmul, [normal(3, 4), normal(4, 2)]),
        "matmul batched": (matmul.matmul, [normal(5, 3, 4), normal(5, 4, 2)]),
        "matmul broadcast": (matmul.matmul, [normal(5, 3, 4), normal(4, 2)]),
        "linear": (matmul.linear, [normal(2, 5, 3), normal(4, 3)]),
        "linear bias": (matmul.linear, [normal(2, 5, 3), normal(4, 3), normal(4)]),
        "frozen linear": (lambda x, b: matmul.linear(x, frozen, b), [normal(2, 5, 3), normal(4)]),
        "lora linear": (
            lambda x, a, b, bias: low_rank.lora_linear(x, frozen, a, b, bias, low_rank.LowRankParams(0.7)),
            [normal(2, 5, 3), normal(2, 3), normal(4, 2), normal(4)],
        ),
        "lora linear dropout": (
            lambda x, a, b: low_rank.lora_linear(x, frozen, a, b, None, low_rank.LowRankParams(1.5, 0.4, KEY)),
            [normal(2, 5, 3), normal(2, 3), normal(4, 2)],
        ),
        "relu": (activation.relu, [positive(5) * np.array([1, -1, 1, -1, 1])]),
        "gelu": (activation.gelu, [normal(6)]),
        "gelu tanh": (lambda x: activation.gelu(x, approximate=True), [normal(6)]),
        "silu": (activation.silu, [normal(6)]),
        "swiglu": (activation.swiglu, [normal(3, 4), normal(3, 4)]),
        "softmax": (activation.softmax, [normal(2, 3, 5)]),
        "layer_norm": (norm.layer_norm, [normal(2, 3, 6), positive(6), normal(6)]),
        "rms_norm": (norm.rms_norm, [normal(2, 3, 6), positive(6)]),
        "rope interleaved": (
            lambda x: rope.rope(x, cos, sin, "interleaved"),
            [normal(2, 5, 3, 4)],
        ),
        "rope halves partial": (lambda x: rope.rope(x, cos, sin, "halves"), [normal(2, 5, 3, 6)]),
        "attention": (
            lambda q, k, v: attention.attention(q, k, v, lower, AttentionParams(scale=0.5)),
            [normal(2, 5, 4, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4)],
        ),
        "attention softcap": (
            lambda q, k, v: attention.attention(q, k, v, lower, AttentionParams(scale=0.9, softcap=1.5)),
            [normal(2, 5, 2, 4), normal(2, 5, 2, 4), normal(2, 5, 2, 4)],
        ),
        "embedding": (lambda table: embedding.embedding(table, ids), [normal(5, 4)]),
        "dropout": (lambda x: dropout.dropout(x, 0.3, KEY), [normal(4, 5)]),
        "cross_entropy": (lambda x: loss.cross_entropy(x, LABELS, 0.25), [normal(6, 5)]),
        "linear_cross_entropy": (
            lambda h, w: loss.linear_cross_entropy(h, w, LABELS, 0.25),
            [normal(6, 3), normal(5, 3)],
        ),
        "linear_cross_entropy frozen": (
            lambda h: loss.linear_cross_entropy(h, frozen_head, LABELS, 0.25),
            [normal(6, 3)],
        ),
        "squared_error": (lambda x: loss.squared_error(x, targets, 0.25), [normal(4)]),
        "power two": (lambda x: elementwise.power(x, 2.0), [normal(2, 3)]),
        "mean inner axis": (lambda x: reduce.mean(x, 1), [normal(3, 4, 2)]),
        "mean keepdims": (lambda x: reduce.mean(x, 1, keepdims=True), [normal(3, 4, 2)]),
        "max keepdims": (lambda x: reduce.maximum(x, (0, 1), keepdims=True), [normal(3, 4, 2)]),
        "max inner axis": (lambda x: reduce.maximum(x, 1), [normal(3, 4, 2)]),
        "concatenate rows": (lambda a, b: shape.concatenate([a, b]), [normal(2, 3), normal(1, 3)]),
        "slice steps": (lambda x: shape.slice_(x, (slice(None, None, -2), 1)), [normal(5, 3)]),
        "matmul vector stack": (matmul.matmul, [normal(3, 4), normal(5, 4, 2)]),
    } | distillation_cases(backend)

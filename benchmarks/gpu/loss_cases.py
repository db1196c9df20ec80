"""Calls of the losses, which take logits in float32 whatever activations are, and of the optimizers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from benchmarks.gpu.compare import Call, Draw
from benchmarks.gpu.subject import TRUTH
from entrenar_core.backend.parameters import AdamParams, DistillationParams, DivergenceKind, SGDParams

KINDS: tuple[DivergenceKind, ...] = get_args(DivergenceKind)
TEMPERATURE = 1.5


def cross_entropies(draw: Draw) -> Iterator[Call]:
    for n_rows, vocab in draw.sizes.logits:
        logits, labels = 4 * draw.normal(n_rows, vocab), draw.ids(n_rows, vocab)
        yield Call("cross_entropy", (logits, labels, None))
        yield Call("cross_entropy", (logits, labels, 0.5), label="cross_entropy with its gradient", changed=(0,))
        yield Call("log_softmax", (logits, TEMPERATURE), changed=(0,))


def distillations(draw: Draw) -> Iterator[Call]:
    for n_rows, vocab in draw.sizes.logits:
        n = max(2, vocab - vocab // 5)
        logits, labels = 3 * draw.normal(n_rows, vocab), draw.ids(n_rows, vocab)
        teacher, weights = 3 * draw.normal(n_rows, n), np.abs(draw.normal(n_rows))
        known = log_probabilities(teacher)
        for kind in KINDS:
            params = DistillationParams(kind, TEMPERATURE, alpha=0.7, beta=0.3)
            values = teacher if kind == "logit_mse" else known
            arguments = (logits, values, labels, weights, params, 0.5)
            yield Call("distillation", arguments, label=f"distillation {kind}", changed=(0,))
            sparse = top_k(draw, values, min(64, n))
            arguments = (logits, *sparse, n, labels, weights, params, 0.5)
            yield Call("distillation_top_k", arguments, label=f"distillation {kind}, top k", changed=(0,))
        columns = draw.places(n, vocab)
        yield Call("take_columns", (logits, columns), exact=True)
        yield Call("add_to_columns", (logits, columns, teacher), changed=(0,))


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """Of a teacher, as float32 holds them."""
    values = logits.copy()
    TRUTH.log_softmax(values, TEMPERATURE)
    return values.astype(np.float32).astype(np.float64)


def top_k(draw: Draw, values: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids int32 [M, K], their values, and the log of what is left for the others."""
    n_rows, n = values.shape
    ids = np.stack([draw.places(k, n) for _ in range(n_rows)])
    taken = np.take_along_axis(values, ids, axis=-1)
    left = np.log(np.maximum(1e-30, 1 - np.exp(np.minimum(taken, 0)).sum(axis=-1)))
    return ids, taken, left.astype(np.float32).astype(np.float64)


def optimizers(draw: Draw) -> Iterator[Call]:
    for shape in draw.sizes.flat:
        parameter, grad, m = draw.normal(*shape), draw.normal(*shape), draw.normal(*shape)
        v = np.abs(draw.normal(*shape))
        for decoupled in (True, False):
            params = AdamParams(1e-2, 0.9, 0.99, 1e-8, 0.1, decoupled=decoupled, step=3)
            label = "adam_steps decoupled" if decoupled else "adam_steps"
            arguments = (parameter, grad, m, v, params)
            yield Call("adam_steps", arguments, label=label, changed=(0, 2, 3), how=_clipped_adam)
        sgd = SGDParams(1e-2, 0.9, nesterov=True, weight_decay=0.1, first_step=False)
        arguments = (parameter, grad, m, sgd)
        yield Call("sgd_steps", arguments, label="sgd_steps with momentum", changed=(0, 2), how=_clipped_sgd)
        yield Call("sgd_steps", (parameter, grad, None, sgd), changed=(0,), how=_clipped_sgd)
        yield Call("sum_of_squares", (parameter,), tolerance={"float32": 1e-9, "bfloat16": 1e-9})
        yield Call("all_finite", (parameter,), exact=True)
        spoilt = parameter.copy()
        spoilt.reshape(-1)[-1] = np.inf
        yield Call("all_finite", (spoilt,), exact=True)


def _clipped_adam(backend: Any, parameter: Any, grad: Any, m: Any, v: Any, params: AdamParams) -> None:
    """Clipped to about half of the gradient's size."""
    clipping = backend.plan_clipping([grad], max_norm=0.5 * grad.size**0.5)
    backend.adam_steps([(parameter, grad, m, v)], params, clipping)


def _clipped_sgd(backend: Any, parameter: Any, grad: Any, buffer: Any, params: SGDParams) -> None:
    clipping = backend.plan_clipping([grad], max_norm=0.5 * grad.size**0.5)
    backend.sgd_steps([(parameter, grad, buffer)], params, clipping)

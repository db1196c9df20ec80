"""Distillation ops on small inputs, and a teacher that is known beforehand, for the tests of those ops."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from entrenar_core.autograd.ops import distillation, matching
from entrenar_core.autograd.ops.distillation import DenseChunk, TopKChunk
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind

Array = np.ndarray

KINDS: tuple[DivergenceKind, ...] = ("forward_kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "logit_mse")
LABELS = np.array([2, -100, 0, 5, 1, -1, 6], np.int32)
N_ROWS, WIDTH, VOCAB, TEACHER_VOCAB = 7, 3, 7, 5
COLUMNS = np.array([4, 0, 6, 1, 3], np.int32)
LOWER = np.array([[0, 0, 0, 3, 3], [0, 1, 1, 2, 3]], np.int32)
QUERIES = np.array([[True, True, False, False, True], [False, True, True, True, True]])


def log_softmax(logits: Array, temperature: float = 1.0) -> Array:
    """In double, over the last axis."""
    scaled = np.asarray(logits, np.float64) / temperature
    shifted = scaled - scaled.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))


@dataclass(frozen=True)
class DenseTeacher:
    """`TeacherRows` of rows that are known beforehand; hands out copies that the caller may spoil."""

    backend: Any
    values: Array
    weights: Array | None = None

    def chunk(self, part: slice) -> DenseChunk:
        weights = None if self.weights is None else self.backend.asarray(self.weights[part].copy())
        return DenseChunk(self.backend.asarray(self.values[part].copy()), weights)


@dataclass(frozen=True)
class TopKTeacher:
    """The same of a teacher that is known on K tokens a row."""

    backend: Any
    ids: Array
    values: Array
    log_tail: Array
    n: int
    weights: Array | None = None

    def chunk(self, part: slice) -> TopKChunk:
        weights = None if self.weights is None else self.backend.asarray(self.weights[part].copy())
        values, log_tail = (self.backend.asarray(each[part].copy()) for each in (self.values, self.log_tail))
        return TopKChunk(self.backend.asarray(self.ids[part].copy()), values, log_tail, self.n, weights)


def top_k(dense: Array, k: int, *, logs: bool = True) -> tuple[Array, Array, Array]:
    """ids int32 [M, K], values [M, K] and log_tail [M] of rows [M, n]; not in order of size, as none is asked for."""
    ids = np.sort(np.argsort(-dense, axis=-1)[:, :k], axis=-1).astype(np.int32)
    values = np.take_along_axis(dense, ids, axis=-1)
    log_tail = np.full(len(dense), np.nan)
    if logs and k < dense.shape[1]:
        rest = dense.copy()
        np.put_along_axis(rest, ids, -np.inf, axis=-1)
        log_tail = np.logaddexp.reduce(rest, axis=-1)
    return ids, values, log_tail


def teacher_values(kind: DivergenceKind, temperature: float, *, seed: int = 5) -> Array:
    """What a teacher of `TEACHER_VOCAB` tokens says of the supervised rows."""
    logits = 2 * np.random.default_rng(seed).standard_normal((int((LABELS >= 0).sum()), TEACHER_VOCAB))
    return logits if kind == "logit_mse" else log_softmax(logits, temperature)


Case = tuple[Callable[..., Tensor], list[Array]]


def distillation_cases(backend: Backend) -> dict[str, Case]:
    """As `op_cases`."""
    rng = np.random.default_rng(11)
    hidden, head = rng.standard_normal((N_ROWS, WIDTH)), rng.standard_normal((VOCAB, WIDTH))
    weights = rng.uniform(0.5, 2.0, int((LABELS >= 0).sum()))
    frozen = backend.prepare_weight(backend.asarray(head))

    def dense(params: DistillationParams, **options: Any) -> Callable[..., Tensor]:
        teacher = DenseTeacher(backend, teacher_values(params.kind, params.temperature), weights)
        return lambda h, w=frozen: distillation.linear_distillation(h, w, LABELS, teacher, params, 0.25, **options)

    def sparse(params: DistillationParams, **options: Any) -> Callable[..., Tensor]:
        values = teacher_values(params.kind, params.temperature)
        known = top_k(values, 2, logs=params.kind != "logit_mse")
        teacher = TopKTeacher(backend, *known, n=TEACHER_VOCAB, weights=weights)
        return lambda h, w=frozen: distillation.linear_distillation(h, w, LABELS, teacher, params, 0.25, **options)

    cases: dict[str, Case] = {}
    for kind in KINDS:
        params = DistillationParams(kind, temperature=1.7, alpha=0.6, beta=0.3)
        cases[f"linear_distillation {kind}"] = (dense(params, rows_per_chunk=2), [hidden, head])
        cases[f"linear_distillation top-k {kind}"] = (sparse(params, rows_per_chunk=2), [hidden, head])
    only = DistillationParams(temperature=0.8)
    cases["linear_distillation frozen"] = (dense(only), [hidden])
    cases["linear_distillation columns"] = (dense(params, columns=backend.asarray(COLUMNS)), [hidden, head])
    cases["linear_distillation columns top-k"] = (sparse(only, columns=backend.asarray(COLUMNS)), [hidden, head])
    return cases | matching_cases(backend)


def matching_cases(backend: Backend) -> dict[str, Case]:
    """Of the ops that look inside a teacher."""
    rng = np.random.default_rng(12)

    def normal(*sizes: int) -> Array:
        return rng.standard_normal(sizes)

    target = backend.asarray(normal(4, 3))
    lower, queries = backend.asarray(LOWER), backend.asarray(QUERIES)

    def attend(heads: int, kv_heads: int) -> Callable[..., Tensor]:
        q, k = backend.asarray(normal(2, 5, heads, 2)), backend.asarray(normal(2, 5, kv_heads, 2))
        return lambda a, b: matching.attention_match(a, b, q, k, lower, queries, 0.7, 0.9, 0.25)

    return {
        "hidden_match mse": (lambda s: matching.hidden_match(s, target, "mse", 0.25), [normal(4, 3)]),
        "hidden_match cosine": (lambda s: matching.hidden_match(s, target, "cosine", 0.25), [normal(4, 3)]),
        "attention_match": (attend(4, 4), [normal(2, 5, 4, 3), normal(2, 5, 2, 3)]),
        "attention_match mean maps": (attend(3, 1), [normal(2, 5, 4, 3), normal(2, 5, 2, 3)]),
    }

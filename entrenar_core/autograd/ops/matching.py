"""Matching what happens inside a teacher: its hidden states, and where its heads look.

Both take the teacher's side as plain arrays and compute gradients in forward. Attention maps are made again from
queries and keys, one head of one sequence at a time, so they cost no memory to speak of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend
from entrenar_core.backend.parameters import DistillationParams, is_attention_shape
from entrenar_core.errors import AutogradError

HiddenLoss = Literal["mse", "cosine"]

_UNSEEN = -1e30
"""The score of a key that a query may not see: finite, so that student and teacher differ by nothing there."""

_PLAIN = DistillationParams()


class HiddenMatch(Op):
    """Σ over rows of mean_d (s - t)², or of 1 - cos(s, t), times scale.

    With ŝ and t̂ of length one, d(1 - cos)/ds = -(t̂ - cos·ŝ)/|s|. A row of zeros has no direction: its cosine counts as
    0 and gets no gradient.
    """

    name = "hidden_match"

    @staticmethod
    def forward(context: Context, student: Array, target: Array, kind: HiddenLoss, scale: float) -> Array:
        compare = _squared_difference if kind == "mse" else _angle
        backend = context.backend
        student, target = (backend.cast(each, backend.dtype) for each in (student, target))
        total, slope = compare(backend, student, target, scale)
        context.save(slope)
        return backend.xp.asarray(total * scale)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (slope,) = context.saved
        return (context.backend.scale(slope, context.factor(grad)),)


def _squared_difference(backend: Backend, student: Array, target: Array, scale: float) -> tuple[Array, Array]:
    width = student.shape[1]
    difference = backend.add(student, backend.scale(target, -1.0))
    total = backend.xp.asarray(backend.sum_of_squares(difference) / width)
    return total, backend.scale(difference, 2 * scale / width, out=difference)


def _angle(backend: Backend, student: Array, target: Array, scale: float) -> tuple[Array, Array]:
    xp = backend.xp
    inverse_s, inverse_t = _inverse_length(xp, student), _inverse_length(xp, target)
    cosine = xp.einsum("md,md->m", student, target, dtype=np.float64) * inverse_s * inverse_t
    along_t = (-scale * inverse_s * inverse_t).astype(backend.dtype)
    along_s = (scale * cosine * inverse_s * inverse_s).astype(backend.dtype)
    return (1 - cosine).sum(), along_t[:, None] * target + along_s[:, None] * student


def _inverse_length(xp: Any, rows: Array) -> Array:
    """1/|row| in float64 for each row of [M, D]; 0 for zeros."""
    squares = xp.einsum("md,md->m", rows, rows, dtype=np.float64)
    is_zero = squares == 0
    return xp.where(is_zero, 0.0, 1 / xp.sqrt(xp.where(is_zero, 1.0, squares)))


def hidden_match(student: Tensor, target: Array, kind: HiddenLoss, scale: float) -> Tensor:
    """scale · Σ over rows of the mean of (student - target)² or of 1 - cos(student, target), both [M, D]: a scalar.

    Raises:
        AutogradError: the shapes differ.
    """
    if len(student.shape) != 2 or tuple(target.shape) != student.shape:
        raise AutogradError(f"hidden states {student.shape} cannot match those of shape {tuple(target.shape)}")
    return apply(HiddenMatch, student, target=target, kind=kind, scale=scale)


@dataclass(frozen=True)
class _Sequence:
    """Queries [T, H, E] and keys [T, K, E] of one sequence, and which positions' maps [R, T] are wanted.

    unseen: bool [R, T], the keys that a query may not see. scale: on the scores.
    """

    backend: Backend
    q: Array
    k: Array
    positions: Array
    unseen: Array
    scale: float

    @property
    def n_heads(self) -> int:
        return int(self.q.shape[1])

    def query(self, head: int) -> Array:
        return self.q[self.positions, head]

    def key(self, head: int) -> Array:
        """A view of the keys [T, E] that a query head looks at."""
        return self.k[:, head // (self.q.shape[1] // self.k.shape[1])]

    def scores(self, head: int) -> Array:
        scores = self.backend.gemm(self.query(head), self.key(head).T, alpha=self.scale)
        scores[self.unseen] = _UNSEEN
        return scores

    def log_map(self, head: int) -> Array:
        """Logs of where a head looks."""
        scores = self.scores(head)
        self.backend.log_softmax(scores, 1.0)
        return scores

    def log_mean_map(self) -> Array:
        """Logs of where the heads look on average."""
        total = self.log_map(0)
        for head in range(1, self.n_heads):
            self.backend.xp.logaddexp(total, self.log_map(head), out=total)
        total -= math.log(self.n_heads)
        return total

    def add_gradients(self, head: int, dscores: Array, gradients: _Sequence) -> None:
        """Add what the gradient of a head's scores says to the queries and keys of `gradients`."""
        gradients.q[self.positions, head] = self.backend.gemm(dscores, self.key(head), alpha=self.scale)
        self.backend.gemm(dscores.T, self.query(head), out=gradients.key(head), alpha=self.scale, beta=1.0)


class AttentionMatch(Op):
    """Σ over positions of mean over heads of KL(A_teacher ‖ A_student)·scale; of the mean maps if the heads differ.

    With A = softmax(S) of one head, dS = A - A_teacher; through the mean Ā of H heads, dS = (A·Σr - r)/H with
    r = Ā_teacher·A/Ā.
    """

    name = "attention_match"

    @staticmethod
    def forward(
        context: Context,
        q: Array,
        k: Array,
        teacher_q: Array,
        teacher_k: Array,
        lower: Array,
        rows: Array,
        softmax_scale: float,
        teacher_softmax_scale: float,
        scale: float,
    ) -> Array:
        backend, xp = context.backend, context.backend.xp
        q, k, teacher_q, teacher_k = (backend.cast(each, backend.dtype) for each in (q, k, teacher_q, teacher_k))
        dq, dk = (backend.zeros(each.shape) if context.recording else None for each in (q, k))
        key_index = xp.arange(q.shape[1])
        total = 0.0
        for b in range(len(q)):
            positions = xp.nonzero(rows[b])[0]
            if len(positions) == 0:
                continue
            unseen = (key_index < lower[b, positions, None]) | (key_index > positions[:, None])
            student = _Sequence(backend, q[b], k[b], positions, unseen, softmax_scale)
            teacher = _Sequence(backend, teacher_q[b], teacher_k[b], positions, unseen, teacher_softmax_scale)
            gradients = replace(student, q=dq[b], k=dk[b]) if dq is not None and dk is not None else None
            match = _match_heads if student.n_heads == teacher.n_heads else _match_mean_maps
            total += match(student, teacher, gradients, scale / student.n_heads)
        context.save(dq, dk)
        return xp.asarray(total * scale, dtype=np.float64)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return [context.backend.scale(each, context.factor(grad), out=each) for each in context.saved]


def _match_heads(student: _Sequence, teacher: _Sequence, gradients: _Sequence | None, factor: float) -> float:
    """The mean over heads of the summed divergences; adds `factor` times the gradients of each head's."""
    total = 0.0
    for head in range(student.n_heads):
        scores = student.scores(head)
        divergences, _ = student.backend.distillation(
            scores, teacher.log_map(head), None, None, _PLAIN, None if gradients is None else factor
        )
        total += float(divergences.sum(dtype=np.float64))
        if gradients is not None:
            student.add_gradients(head, scores, gradients)
    return total / student.n_heads


def _match_mean_maps(student: _Sequence, teacher: _Sequence, gradients: _Sequence | None, factor: float) -> float:
    """The summed divergences of the mean maps; adds their gradients, `factor` being the share of a head."""
    xp = student.backend.xp
    log_mean, log_target = student.log_mean_map(), teacher.log_mean_map()
    divergences, _ = student.backend.distillation(log_mean, log_target, None, None, _PLAIN, None)
    if gradients is not None:
        target = xp.exp(log_target)
        for head in range(student.n_heads):
            log_map = student.log_map(head)
            share = target * xp.exp(log_map - log_mean)
            dscores = (xp.exp(log_map) * share.sum(axis=-1, keepdims=True) - share) * factor
            student.add_gradients(head, dscores, gradients)
    return float(divergences.sum(dtype=np.float64))


def attention_match(
    q: Tensor,
    k: Tensor,
    teacher_q: Array,
    teacher_k: Array,
    lower: Array,
    rows: Array,
    softmax_scale: float,
    teacher_softmax_scale: float,
    scale: float,
) -> Tensor:
    """scale · Σ over the positions `rows` of how far a student's attention is from its teacher's, as a float64 scalar.

    Args:
        q, k: the student's queries [B, T, H, E] and keys [B, T, K, E], as attention gets them.
        teacher_q, teacher_k: the teacher's [B, T, H', E'] and [B, T, K', E']. With H' = H, head is compared with head;
            else the means over heads are compared.
        lower: int32 [B, T]; query i sees the keys lower[b, i] ... i, as in `attention`.
        rows: bool [B, T], the queries that count.
        softmax_scale, teacher_softmax_scale: on q·k.

    Raises:
        AutogradError: shapes that do not fit.
    """
    shapes = [tuple(each.shape) for each in (q, k, teacher_q, teacher_k)]
    fits = _is_attention(*shapes[:2]) and _is_attention(*shapes[2:]) and shapes[0][:2] == shapes[2][:2]
    if not fits or not tuple(lower.shape) == tuple(rows.shape) == shapes[0][:2]:
        raise AutogradError(
            f"attention match: q {shapes[0]}, k {shapes[1]}, the teacher's q {shapes[2]} and k {shapes[3]},"
            f" lower {tuple(lower.shape)} and rows {tuple(rows.shape)} do not fit"
        )
    return apply(
        AttentionMatch,
        q,
        k,
        teacher_q=teacher_q,
        teacher_k=teacher_k,
        lower=lower,
        rows=rows,
        softmax_scale=softmax_scale,
        teacher_softmax_scale=teacher_softmax_scale,
        scale=scale,
    )


def _is_attention(q: tuple[int, ...], k: tuple[int, ...]) -> bool:
    """`is_attention_shape`, with as many keys as queries."""
    return is_attention_shape(q, k) and q[1] == k[1]

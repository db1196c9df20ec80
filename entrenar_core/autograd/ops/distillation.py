"""Distillation: a student's cross-entropy and its divergence from a teacher, fused with the output matrix.

As in the fused cross-entropy, rows are taken in chunks: of each chunk the student's logits are made, the teacher is
asked for its own, and the gradients of hidden states and matrix are computed at once. So neither the student's logits
nor the teacher's ever exist for more than a chunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.loss import HostLabels, OutputMatrix, fused_gradients, fused_operands, sum_over_chunks
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.errors import AutogradError


@dataclass(frozen=True)
class DenseChunk:
    """What a teacher says of every one of its n tokens, for m rows.

    values: [m, n], log-probabilities at the temperature of the loss, or logits for logit_mse.
    weights: [m], how much each row's divergence counts; None: 1 each.
    """

    values: Array
    weights: Array | None = None

    @property
    def n(self) -> int:
        return int(self.values.shape[1])


@dataclass(frozen=True)
class TopKChunk:
    """What a teacher says of K of its n tokens, for m rows: see `Backend.distillation_top_k`.

    ids: int32 [m, K]. values: [m, K]. log_tail: [m]. weights: [m], or None.
    """

    ids: Array
    values: Array
    log_tail: Array
    n: int
    weights: Array | None = None


class TeacherRows(Protocol):
    """What teachers say of the supervised rows of one batch, in their order."""

    def chunk(self, part: slice) -> DenseChunk | TopKChunk:
        """Of the rows `part`; arrays of the student's backend, computed for this call."""
        ...


@dataclass
class LossSums:
    """Sums over rows that `linear_distillation` adds to, before alpha and scale.

    divergence: of weights·T²·D. cross_entropy: 0 while alpha is 1; both float64 scalars of the backend once there are
    rows. rows: how many.
    """

    divergence: Array | float = 0.0
    cross_entropy: Array | float = 0.0
    rows: int = 0


class LinearDistillation(Op):
    """Σ (alpha·w·T²·D(teacher, student) + (1-alpha)·cross-entropy)·scale over the supervised rows of hidden [M, D].

    The weight is a trainable input [V, D], with the `operand` that products take, or None with a frozen `handle`.
    """

    name = "linear_distillation"

    @staticmethod
    def forward(
        context: Context,
        hidden: Array,
        weight: Array | None,
        operand: Array | None,
        handle: WeightHandle | None,
        labels: HostLabels,
        rows_per_chunk: int,
        teacher: TeacherRows,
        params: DistillationParams,
        scale: float,
        columns: Array | None,
        sums: LossSums,
    ) -> Array:
        del weight  # its gradient alone is of interest
        backend = context.backend
        grad_scale = scale if context.recording else None

        def chunk_loss(logits: Array, targets: Array, part: slice) -> Array:
            chunk = teacher.chunk(part)
            _check_chunk(chunk, logits, columns)
            measure = _measure if columns is None else _measure_columns
            divergences, losses = measure(backend, logits, chunk, targets, params, grad_scale, columns)
            if chunk.weights is not None:
                divergences = divergences * chunk.weights
            divergence, cross_entropy = (each.sum(dtype=np.float64) for each in (divergences, losses))
            sums.divergence = sums.divergence + divergence
            sums.cross_entropy = sums.cross_entropy + cross_entropy
            sums.rows += len(targets)
            return params.alpha * divergence + (1 - params.alpha) * cross_entropy

        matrix = OutputMatrix(backend, operand, handle)
        total = sum_over_chunks(context, hidden, matrix, labels, rows_per_chunk, chunk_loss)
        return backend.xp.asarray(total * scale, dtype=np.float64)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return fused_gradients(context, context.factor(grad))


def _measure(
    backend: Backend,
    logits: Array,
    chunk: DenseChunk | TopKChunk,
    targets: Array,
    params: DistillationParams,
    scale: float | None,
    columns: None = None,
) -> tuple[Array, Array]:
    """Divergences and cross-entropies [m]; with a scale, the logits become their gradient."""
    if isinstance(chunk, DenseChunk):
        return backend.distillation(logits, chunk.values, targets, chunk.weights, params, scale)
    return backend.distillation_top_k(
        logits, chunk.ids, chunk.values, chunk.log_tail, chunk.n, targets, chunk.weights, params, scale
    )


def _measure_columns(
    backend: Backend,
    logits: Array,
    chunk: DenseChunk | TopKChunk,
    targets: Array,
    params: DistillationParams,
    scale: float | None,
    columns: Array,
) -> tuple[Array, Array]:
    """`_measure` where the teacher's tokens are those columns of the student's."""
    alpha = params.alpha
    compared = backend.take_columns(logits, columns)
    alone = replace(params, alpha=1.0)
    divergences, losses = _measure(backend, compared, chunk, targets, alone, None if scale is None else scale * alpha)
    if alpha < 1:
        losses = backend.cross_entropy(logits, targets, None if scale is None else scale * (1 - alpha))
    elif scale is not None:
        logits[...] = 0
    if scale is not None:
        backend.add_to_columns(logits, columns, compared)
    return divergences, losses


def _check_chunk(chunk: DenseChunk | TopKChunk, logits: Array, columns: Array | None) -> None:
    rows, vocab = logits.shape
    if len(chunk.values) != rows:
        raise AutogradError(f"distillation: the teacher gave {len(chunk.values)} rows where {rows} were asked for")
    if columns is None and chunk.n > vocab:
        raise AutogradError(f"distillation: a teacher of {chunk.n} tokens for a student of {vocab}")
    if columns is not None and chunk.n != len(columns):
        raise AutogradError(f"distillation: a teacher of {chunk.n} tokens for {len(columns)} columns of the student")


def linear_distillation(
    hidden: Tensor,
    weight: Tensor | WeightHandle,
    labels: HostLabels,
    teacher: TeacherRows,
    params: DistillationParams,
    scale: float,
    *,
    columns: Array | None = None,
    rows_per_chunk: int | None = None,
    sums: LossSums | None = None,
) -> Tensor:
    """scale · Σ (alpha·w·T²·D + (1-alpha)·cross-entropy) over labels ≥ 0, as a float64 scalar.

    Args:
        hidden: [M, D].
        weight: the output matrix [V, D], trainable or frozen.
        labels: int32 [M] on the host; negative ones are left out.
        teacher: asked for each chunk of the supervised rows once, in order.
        params: which divergence D, its temperature T, and alpha.
        scale: 1/n for the mean over n supervised tokens.
        columns: int32 [n], all different: which of the student's tokens the teacher's are, in the teacher's order.
            None: the first n.
        rows_per_chunk: for measuring; the default is the backend's `loss_rows`.
        sums: added to.

    Raises:
        AutogradError: shapes that do not fit, or columns that are no set of the student's tokens.
    """
    operands = fused_operands("distillation", hidden, weight, labels, rows_per_chunk)
    if columns is not None:
        _check_columns(hidden.backend, columns, weight.shape[0])
    return apply(
        LinearDistillation,
        hidden,
        operands.dense,
        teacher=teacher,
        params=params,
        scale=scale,
        columns=columns,
        sums=LossSums() if sums is None else sums,
        **operands.params,
    )


def _check_columns(backend: Backend, columns: Array, vocab: int) -> None:
    xp = backend.xp
    fits = columns.ndim == 1 and len(columns) > 0 and int(columns.min()) >= 0 and int(columns.max()) < vocab
    if not fits or int(xp.bincount(columns, minlength=vocab).max()) > 1:
        raise AutogradError(f"distillation: columns {tuple(columns.shape)} are no set of the student's {vocab} tokens")

"""What is minimised: cross-entropy, also fused with the output matrix so that all logits never exist at once, and
squared error.

The fused op works through the supervised rows in chunks. While it has a chunk's logits it also computes the gradients
of the hidden states and of the matrix, so backward only hands them out and no logits are computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.errors import AutogradError

HostLabels = npt.NDArray[np.int32]
"""Labels [M] on the host, negative where none is asked for: which rows count is known without waiting for a device."""


class CrossEntropy(Op):
    """Σ -log softmax(logits)[label]·scale over the supervised rows of logits [M, V]."""

    name = "cross_entropy"

    @staticmethod
    def forward(context: Context, logits: Array, labels: HostLabels, scale: float) -> Array:
        backend = context.backend
        asked, targets = supervised(backend, labels)
        chunk = backend.take_rows(backend.cast(logits, backend.dtype), asked)
        losses = backend.cross_entropy(chunk, targets, scale if context.recording else None)
        context.save(chunk)
        context.params.update(asked=asked, shape=logits.shape)
        return backend.xp.asarray(losses.sum(dtype=np.float64) * scale)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (chunk,) = context.saved
        backend = context.backend
        dlogits = backend.zeros(context.params["shape"])
        backend.put_rows(context.params["asked"], backend.scale(chunk, context.factor(grad)), dlogits)
        return (dlogits,)


@dataclass(frozen=True)
class OutputMatrix:
    """The matrix [V, D] of a fused loss: a trainable array or a frozen handle."""

    backend: Backend
    dense: Array | None
    handle: WeightHandle | None

    @property
    def vocab(self) -> int:
        owner = self.dense if self.handle is None else self.handle
        return int(owner.shape[0])  # type: ignore[union-attr]

    def logits(self, states: Array) -> Array:
        if self.handle is not None:
            return self.backend.linear(states, self.handle, self.backend.dtype)
        return self.backend.gemm(states, self.dense.T, dtype=self.backend.dtype)  # type: ignore[union-attr]

    def input_grad(self, dlogits: Array) -> Array:
        if self.handle is not None:
            return self.backend.linear_input_grad(dlogits, self.handle)
        return self.backend.gemm(dlogits, self.dense, dtype=self.backend.compute_dtype)


class LinearCrossEntropy(Op):
    """Σ -log softmax(hidden Wᵀ)[label]·scale over the supervised rows of hidden [M, D], in chunks of rows.

    The weight is a trainable input [V, D], with the `operand` that products take, or None with a frozen `handle`.
    """

    name = "linear_cross_entropy"

    @staticmethod
    def forward(
        context: Context,
        hidden: Array,
        weight: Array | None,
        operand: Array | None,
        handle: WeightHandle | None,
        labels: HostLabels,
        scale: float,
        rows_per_chunk: int,
    ) -> Array:
        del weight  # its gradient alone is of interest
        backend = context.backend

        def chunk_loss(logits: Array, targets: Array, part: slice) -> Array:
            del part
            losses = backend.cross_entropy(logits, targets, scale if context.recording else None)
            return losses.sum(dtype=np.float64)

        matrix = OutputMatrix(backend, operand, handle)
        total = sum_over_chunks(context, hidden, matrix, labels, rows_per_chunk, chunk_loss)
        return backend.xp.asarray(total * scale, dtype=np.float64)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return fused_gradients(context, context.factor(grad))


class SquaredError(Op):
    """Σ (prediction - target)²·scale."""

    name = "squared_error"

    @staticmethod
    def forward(context: Context, predictions: Array, targets: Array, scale: float) -> Array:
        xp = context.backend.xp
        backend = context.backend
        errors = backend.cast(predictions, backend.dtype) - xp.asarray(targets, dtype=backend.dtype)
        context.save(errors)
        context.params.update(scale=scale)
        return xp.asarray(xp.square(errors, dtype=np.float64).sum() * scale)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (errors,) = context.saved
        return (context.backend.scale(errors, 2.0 * context.params["scale"] * context.factor(grad)),)


ChunkLoss = Callable[[Array, Array, slice], Array]
"""Of logits [m, V], targets int32 [m] and which of the supervised rows they are: the sum of their losses (a float64
scalar of the backend), with the gradient written over the logits if one is wanted."""


def sum_over_chunks(
    context: Context,
    hidden: Array,
    matrix: OutputMatrix,
    labels: HostLabels,
    rows_per_chunk: int,
    chunk_loss: ChunkLoss,
) -> Array | float:
    """The sum of `chunk_loss` over the supervised rows of hidden [M, D]; leaves in the context what `fused_gradients`
    hands out."""
    backend = context.backend
    asked, targets = supervised(backend, labels)
    states = backend.take_rows(hidden, asked)
    need_states, need_weight = context.needs
    dstates = backend.empty(states.shape, states.dtype) if need_states else None
    dweight = backend.zeros((matrix.vocab, hidden.shape[1])) if need_weight else None
    total: Array | float = 0.0
    for start in range(0, len(targets), rows_per_chunk):
        part = slice(start, min(start + rows_per_chunk, len(targets)))
        logits = matrix.logits(states[part])
        total = total + chunk_loss(logits, targets[part], part)
        if dstates is not None:
            dstates[part] = matrix.input_grad(logits)
        if dweight is not None:
            backend.gemm(logits.T, states[part], out=dweight, beta=1.0)
    context.save(dstates, dweight)
    context.params.update(asked=asked, shape=hidden.shape)
    return total


def fused_gradients(context: Context, factor: float) -> tuple[Array | None, Array | None]:
    """`factor` times the gradients of hidden states and matrix that `sum_over_chunks` has left."""
    backend = context.backend
    dstates, dweight = context.saved
    dhidden = None
    if dstates is not None:
        dhidden = backend.zeros(context.params["shape"], dstates.dtype)
        dstates = dstates if factor == 1.0 else backend.scale(dstates, factor)
        backend.put_rows(context.params["asked"], dstates, dhidden)
    if dweight is not None and factor != 1.0:
        dweight = backend.scale(dweight, factor, out=dweight)
    return dhidden, dweight


def supervised(backend: Backend, labels: HostLabels) -> tuple[Array, Array]:
    """The rows with a label, int32 [m], and their labels [m], both on the backend."""
    asked = np.flatnonzero(labels >= 0)
    return backend.asarray(asked, np.int32), backend.asarray(labels[asked], np.int32)


def cross_entropy(logits: Tensor, labels: HostLabels, scale: float) -> Tensor:
    """scale · Σ -log softmax(logits [M, V])[labels int32 [M]] over labels ≥ 0, as a float64 scalar.

    Pass 1/n for the mean over n supervised tokens.
    """
    _check_labels("cross-entropy", logits, labels)
    return apply(CrossEntropy, logits, labels=labels, scale=scale)


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor | WeightHandle,
    labels: HostLabels,
    scale: float,
    *,
    rows_per_chunk: int | None = None,
) -> Tensor:
    """`cross_entropy` of hidden [M, D] times weight [V, D] transposed, without ever holding all logits.

    `rows_per_chunk` is for measuring; the default is the backend's `loss_rows`.
    """
    operands = fused_operands("cross-entropy", hidden, weight, labels, rows_per_chunk)
    return apply(LinearCrossEntropy, hidden, operands.dense, scale=scale, **operands.params)


@dataclass(frozen=True)
class FusedOperands:
    """What a fused loss is applied to besides the hidden states: a trainable matrix (or None), and parameters."""

    dense: Tensor | None
    params: dict[str, Any]


def fused_operands(
    operation: str, hidden: Tensor, weight: Tensor | WeightHandle, labels: HostLabels, rows_per_chunk: int | None
) -> FusedOperands:
    """The operands of a fused loss of hidden [M, D], weight [V, D] and labels [M].

    Raises:
        AutogradError: their shapes do not fit.
    """
    _check_labels(operation, hidden, labels)
    vocab, width = weight.shape
    if width != hidden.shape[1]:
        raise AutogradError(f"{operation}: hidden states {hidden.shape} for an output matrix {(vocab, width)}")
    dense, handle = (weight, None) if isinstance(weight, Tensor) else (None, weight)
    if rows_per_chunk is None:
        rows_per_chunk = hidden.backend.loss_rows(vocab, handle)
    operand = None if dense is None else dense.for_products()
    return FusedOperands(
        dense, {"operand": operand, "handle": handle, "labels": labels, "rows_per_chunk": rows_per_chunk}
    )


def squared_error(predictions: Tensor, targets: Array, scale: float) -> Tensor:
    """scale · Σ (predictions [M] - targets [M])², as a float64 scalar.

    Raises:
        AutogradError: the shapes differ.
    """
    if tuple(targets.shape) != predictions.shape:
        raise AutogradError(f"squared error: predictions {predictions.shape} but targets {tuple(targets.shape)}")
    return apply(SquaredError, predictions, targets=targets, scale=scale)


def _check_labels(operation: str, states: Tensor, labels: HostLabels) -> None:
    if len(states.shape) != 2 or tuple(labels.shape) != states.shape[:1]:
        raise AutogradError(f"{operation}: rows of shape {states.shape} but labels of shape {tuple(labels.shape)}")

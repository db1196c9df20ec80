"""What is minimised: cross-entropy, also fused with the output matrix so that all logits never exist at once, and
squared error.

The fused op works through the supervised rows in chunks. While it has a chunk's logits it also computes the gradients
of the hidden states and of the matrix, so backward only hands them out and no logits are computed twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.errors import AutogradError

CHUNK_BYTES = 16 << 20
"""Aim for the logits of one chunk: small enough for a CPU's last-level cache, large enough for a fast product."""

PACKED_CHUNK_BYTES = 64 << 20
"""The same with an output matrix in blocks, which is decoded twice for each chunk: with 512 rows for a vocabulary of
32000, decoding is a few percent of the products."""


class CrossEntropy(Op):
    """Σ -log softmax(logits)[label]·scale over the supervised rows of logits [M, V]."""

    name = "cross_entropy"

    @staticmethod
    def forward(context: Context, logits: Array, labels: Array, scale: float) -> Array:
        backend = context.backend
        supervised = supervised_rows(backend.xp, labels)
        chunk = backend.xp.ascontiguousarray(logits[supervised])
        losses = backend.cross_entropy(chunk, labels[supervised], scale if context.recording else None)
        context.save(chunk)
        context.params.update(supervised=supervised, shape=logits.shape)
        return backend.xp.asarray(losses.sum(dtype=np.float64) * scale)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (chunk,) = context.saved
        dlogits = context.backend.zeros(context.params["shape"])
        dlogits[context.params["supervised"]] = chunk * float(grad)
        return (dlogits,)


@dataclass(frozen=True)
class _OutputMatrix:
    """The matrix [V, D] of the fused loss: a trainable array or a frozen handle."""

    backend: Backend
    dense: Array | None
    handle: WeightHandle | None

    @property
    def vocab(self) -> int:
        owner = self.dense if self.handle is None else self.handle
        return int(owner.shape[0])  # type: ignore[union-attr]

    def logits(self, states: Array) -> Array:
        if self.handle is not None:
            return self.backend.linear(states, self.handle)
        return self.backend.gemm(states, self.dense.T)  # type: ignore[union-attr]

    def input_grad(self, dlogits: Array) -> Array:
        if self.handle is not None:
            return self.backend.linear_input_grad(dlogits, self.handle)
        return self.backend.gemm(dlogits, self.dense)


class LinearCrossEntropy(Op):
    """Σ -log softmax(hidden Wᵀ)[label]·scale over the supervised rows of hidden [M, D], in chunks of rows.

    The weight is a trainable input [V, D], or None with a frozen `handle`.
    """

    name = "linear_cross_entropy"

    @staticmethod
    def forward(
        context: Context,
        hidden: Array,
        weight: Array | None,
        handle: WeightHandle | None,
        labels: Array,
        scale: float,
        rows_per_chunk: int,
    ) -> Array:
        backend, xp = context.backend, context.backend.xp
        matrix = _OutputMatrix(backend, weight, handle)
        supervised = supervised_rows(xp, labels)
        targets = labels[supervised]
        states = xp.take(hidden, supervised, axis=0)
        need_states, need_weight = context.needs
        dstates = backend.empty(states.shape) if need_states else None
        dweight = backend.zeros((matrix.vocab, hidden.shape[1])) if need_weight else None
        total = 0.0
        for start in range(0, len(targets), rows_per_chunk):
            part = slice(start, start + rows_per_chunk)
            logits = matrix.logits(states[part])
            losses = backend.cross_entropy(logits, targets[part], scale if context.recording else None)
            total += float(losses.sum(dtype=np.float64))
            if dstates is not None:
                dstates[part] = matrix.input_grad(logits)
            if dweight is not None:
                backend.gemm(logits.T, states[part], out=dweight, beta=1.0)
        context.save(dstates, dweight)
        context.params.update(supervised=supervised, shape=hidden.shape)
        return xp.asarray(total * scale, dtype=np.float64)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        backend = context.backend
        dstates, dweight = context.saved
        factor = float(grad)
        dhidden = None
        if dstates is not None:
            dhidden = backend.zeros(context.params["shape"])
            dhidden[context.params["supervised"]] = dstates if factor == 1.0 else backend.scale(dstates, factor)
        if dweight is not None and factor != 1.0:
            dweight = backend.scale(dweight, factor, out=dweight)
        return dhidden, dweight


class SquaredError(Op):
    """Σ (prediction - target)²·scale."""

    name = "squared_error"

    @staticmethod
    def forward(context: Context, predictions: Array, targets: Array, scale: float) -> Array:
        xp = context.backend.xp
        errors = predictions - xp.asarray(targets, dtype=predictions.dtype)
        context.save(errors)
        context.params.update(scale=scale)
        return xp.asarray(xp.square(errors, dtype=np.float64).sum() * scale)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (errors,) = context.saved
        return (context.backend.scale(errors, 2.0 * context.params["scale"] * float(grad)),)


def supervised_rows(xp: Any, labels: Array) -> Array:
    """Indices of the rows with a label."""
    return xp.nonzero(labels >= 0)[0]


def chunk_rows(vocab: int, item_bytes: int, *, is_packed: bool = False) -> int:
    """How many rows of logits one chunk holds: about `CHUNK_BYTES`, at least 16; more if the matrix is in blocks."""
    n_bytes, least = (PACKED_CHUNK_BYTES, 128) if is_packed else (CHUNK_BYTES, 16)
    return max(least, n_bytes // (vocab * item_bytes))


def cross_entropy(logits: Tensor, labels: Array, scale: float) -> Tensor:
    """scale · Σ -log softmax(logits [M, V])[labels int32 [M]] over labels ≥ 0, as a float64 scalar.

    Pass 1/n for the mean over n supervised tokens.
    """
    _check_labels(logits, labels)
    return apply(CrossEntropy, logits, labels=labels, scale=scale)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor | WeightHandle, labels: Array, scale: float, *, rows_per_chunk: int | None = None
) -> Tensor:
    """`cross_entropy` of hidden [M, D] times weight [V, D] transposed, without ever holding all logits.

    `rows_per_chunk` is for measuring; the default is `chunk_rows`.
    """
    _check_labels(hidden, labels)
    vocab, width = weight.shape
    if width != hidden.shape[1]:
        raise AutogradError(f"cross-entropy: hidden states {hidden.shape} for an output matrix {(vocab, width)}")
    if rows_per_chunk is None:
        is_packed = isinstance(weight, PackedMatrix)
        rows_per_chunk = chunk_rows(vocab, hidden.data.dtype.itemsize, is_packed=is_packed)
    dense, handle = (weight, None) if isinstance(weight, Tensor) else (None, weight)
    return apply(
        LinearCrossEntropy, hidden, dense, handle=handle, labels=labels, scale=scale, rows_per_chunk=rows_per_chunk
    )


def squared_error(predictions: Tensor, targets: Array, scale: float) -> Tensor:
    """scale · Σ (predictions [M] - targets [M])², as a float64 scalar.

    Raises:
        AutogradError: the shapes differ.
    """
    if tuple(targets.shape) != predictions.shape:
        raise AutogradError(f"squared error: predictions {predictions.shape} but targets {tuple(targets.shape)}")
    return apply(SquaredError, predictions, targets=targets, scale=scale)


def _check_labels(states: Tensor, labels: Array) -> None:
    if len(states.shape) != 2 or tuple(labels.shape) != states.shape[:1]:
        raise AutogradError(f"cross-entropy: rows of shape {states.shape} but labels of shape {tuple(labels.shape)}")

"""Reductions over one, several or all axes: sum, mean, maximum."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array

Axis = int | tuple[int, ...] | None


def _with_reduced_axes(grad: Array, context: Context) -> Array:
    """The upstream gradient with the reduced axes back, as size one."""
    if context.params["keepdims"] or context.params["axis"] is None:
        return grad
    return context.backend.xp.expand_dims(grad, context.params["axis"])


def _remember(context: Context, x: Array, axis: Axis, keepdims: bool) -> None:
    context.params.update(shape=x.shape, axis=axis, keepdims=keepdims)


class Sum(Op):
    name = "sum"

    @staticmethod
    def forward(context: Context, x: Array, axis: Axis, keepdims: bool) -> Array:
        _remember(context, x, axis, keepdims)
        return context.backend.xp.asarray(x.sum(axis=axis, keepdims=keepdims))

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        xp = context.backend.xp
        return (xp.broadcast_to(_with_reduced_axes(grad, context), context.params["shape"]).copy(),)


class Mean(Op):
    name = "mean"

    @staticmethod
    def forward(context: Context, x: Array, axis: Axis, keepdims: bool) -> Array:
        _remember(context, x, axis, keepdims)
        return context.backend.xp.asarray(x.mean(axis=axis, keepdims=keepdims))

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        xp, shape = context.backend.xp, context.params["shape"]
        grad = _with_reduced_axes(grad, context)
        n_averaged = math.prod(shape) / max(grad.size, 1)
        return (xp.broadcast_to(grad / n_averaged, shape).copy(),)


class Maximum(Op):
    """The largest element; on a tie the gradient is shared evenly, the subgradient that keeps symmetry."""

    name = "max"

    @staticmethod
    def forward(context: Context, x: Array, axis: Axis, keepdims: bool) -> Array:
        _remember(context, x, axis, keepdims)
        context.save(x == x.max(axis=axis, keepdims=True))
        return context.backend.xp.asarray(x.max(axis=axis, keepdims=keepdims))

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (is_largest,) = context.saved
        n_largest = is_largest.sum(axis=context.params["axis"], keepdims=True)
        return ((is_largest * (_with_reduced_axes(grad, context) / n_largest)).astype(grad.dtype),)


def _reduce(op: type[Op], x: Tensor, axis: Axis, keepdims: bool) -> Any:
    return apply(op, x, axis=axis, keepdims=keepdims)


def sum_(x: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (all axes for None)."""
    return _reduce(Sum, x, axis, keepdims)


def mean(x: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Arithmetic mean over `axis` (all axes for None)."""
    return _reduce(Mean, x, axis, keepdims)


def maximum(x: Tensor, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Largest element over `axis` (all axes for None)."""
    return _reduce(Maximum, x, axis, keepdims)

"""Ops that move elements without computing: reshape, transpose, slice, concatenate, broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.elementwise import sum_to_shape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.errors import AutogradError

_INDEX_KINDS = (int, slice, EllipsisType)


class Reshape(Op):
    name = "reshape"
    passes_gradient = True
    may_return_view = True

    @staticmethod
    def forward(context: Context, x: Array, shape: tuple[int, ...]) -> Array:
        context.params["shape"] = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return (grad.reshape(context.params["shape"]),)


class Transpose(Op):
    name = "transpose"
    passes_gradient = True
    may_return_view = True

    @staticmethod
    def forward(context: Context, x: Array, axes: tuple[int, ...]) -> Array:
        context.params["axes"] = axes
        return context.backend.xp.asarray(x.transpose(axes), order="C")

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        axes = context.params["axes"]
        inverse = tuple(axes.index(i) for i in range(len(axes)))
        return (context.backend.xp.asarray(grad.transpose(inverse), order="C"),)


class Slice(Op):
    name = "slice"
    may_return_view = True

    @staticmethod
    def forward(context: Context, x: Array, index: Any) -> Array:
        context.params.update(shape=x.shape, index=index)
        return context.backend.xp.asarray(x[index], order="C")

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        xp = context.backend.xp
        out = xp.zeros(context.params["shape"], dtype=grad.dtype)
        out[context.params["index"]] = grad
        return (out,)


class Concatenate(Op):
    name = "concatenate"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, *arrays: Array, axis: int) -> Array:
        context.params.update(axis=axis, sizes=[array.shape[axis] for array in arrays])
        return context.backend.xp.concatenate(arrays, axis=axis)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        xp, axis = context.backend.xp, context.params["axis"]
        ends = [sum(context.params["sizes"][: i + 1]) for i in range(len(context.params["sizes"]))]
        return [xp.asarray(part, order="C") for part in xp.split(grad, ends[:-1], axis=axis)]


class BroadcastTo(Op):
    name = "broadcast_to"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, x: Array, shape: tuple[int, ...]) -> Array:
        context.params["shape"] = x.shape
        return context.backend.xp.broadcast_to(x, shape).copy()

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return (sum_to_shape(grad, context.params["shape"]),)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another shape; one size may be -1."""
    return apply(Reshape, x, shape=shape)


def transpose(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Axis i of the result is axis axes[i] of x."""
    return apply(Transpose, x, axes=tuple(axis % x.data.ndim for axis in axes))


def slice_(x: Tensor, index: Any) -> Tensor:
    """x[index] for basic indexing: integers, slices, an ellipsis.

    Raises:
        AutogradError: an index of another kind, which could name an element twice.
    """
    parts = index if isinstance(index, tuple) else (index,)
    wrong = [part for part in parts if isinstance(part, bool) or not isinstance(part, _INDEX_KINDS)]
    if wrong:
        raise AutogradError(f"slice: {wrong[0]!r} is no integer, slice or ellipsis", hint="use embedding for row ids")
    return apply(Slice, x, index=index)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors joined along an axis."""
    return apply(Concatenate, *tensors, axis=axis)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x stretched to `shape` by NumPy's rules."""
    return apply(BroadcastTo, x, shape=shape)

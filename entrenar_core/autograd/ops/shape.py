"""Ops that move elements without computing: reshape, transpose, slice, concatenate, broadcast."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.elementwise import sum_to_shape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array


class Reshape(Op):
    name = "reshape"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, x: Array, shape: tuple[int, ...]) -> Array:
        context.params["shape"] = x.shape
        return x.reshape(shape)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return (grad.reshape(context.params["shape"]),)


class Transpose(Op):
    name = "transpose"

    @staticmethod
    def forward(context: Context, x: Array, axes: tuple[int, ...]) -> Array:
        context.params["axes"] = axes
        return context.backend.xp.ascontiguousarray(x.transpose(axes))

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        axes = context.params["axes"]
        inverse = tuple(axes.index(i) for i in range(len(axes)))
        return (context.backend.xp.ascontiguousarray(grad.transpose(inverse)),)


class Slice(Op):
    name = "slice"

    @staticmethod
    def forward(context: Context, x: Array, index: Any) -> Array:
        context.params.update(shape=x.shape, index=index)
        return context.backend.xp.ascontiguousarray(x[index])

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        xp = context.backend.xp
        out = xp.zeros(context.params["shape"], dtype=grad.dtype)
        out[context.params["index"]] = grad
        return (out,)


class Concatenate(Op):
    name = "concatenate"

    @staticmethod
    def forward(context: Context, *arrays: Array, axis: int) -> Array:
        context.params.update(axis=axis, sizes=[array.shape[axis] for array in arrays])
        return context.backend.xp.concatenate(arrays, axis=axis)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        xp, axis = context.backend.xp, context.params["axis"]
        ends = [sum(context.params["sizes"][: i + 1]) for i in range(len(context.params["sizes"]))]
        return [xp.ascontiguousarray(part) for part in xp.split(grad, ends[:-1], axis=axis)]


class BroadcastTo(Op):
    name = "broadcast_to"

    @staticmethod
    def forward(context: Context, x: Array, shape: tuple[int, ...]) -> Array:
        context.params["shape"] = x.shape
        return context.backend.xp.broadcast_to(x, shape).copy()

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        summed = sum_to_shape(grad, context.params["shape"])
        return (summed.copy() if summed is grad else summed,)


def reshape(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The same elements in another shape; one size may be -1."""
    return apply(Reshape, x, shape=shape)


def transpose(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Axis i of the result is axis axes[i] of x."""
    return apply(Transpose, x, axes=tuple(axis % x.data.ndim for axis in axes))


def slice_(x: Tensor, index: Any) -> Tensor:
    """x[index] for basic indexing: integers, slices, an ellipsis."""
    return apply(Slice, x, index=index)


def concatenate(tensors: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Tensors joined along an axis."""
    return apply(Concatenate, *tensors, axis=axis)


def broadcast_to(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """x stretched to `shape` by NumPy's rules."""
    return apply(BroadcastTo, x, shape=shape)

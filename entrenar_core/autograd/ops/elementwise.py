"""Elementwise ops with NumPy broadcasting: add, subtract, multiply, divide, scale, exp, log, sqrt, power, tanh."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor, fits_kernels
from entrenar_core.backend.base import Array


def sum_to_shape(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum a gradient over the axes that broadcasting added or stretched, so that it has `shape` again."""
    if grad.shape == shape:
        return grad
    added = grad.ndim - len(shape)
    grad = grad.sum(axis=tuple(range(added))) if added else grad
    stretched = tuple(i for i, size in enumerate(shape) if size == 1 and grad.shape[i] != 1)
    return grad.sum(axis=stretched, keepdims=True) if stretched else grad


class Add(Op):
    name = "add"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, a: Array, b: Array) -> Array:
        context.params["shapes"] = (a.shape, b.shape)
        return context.backend.add(a, b) if fits_kernels(context.backend, a, b) else a + b

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return [
            sum_to_shape(grad, shape) if needed else None
            for shape, needed in zip(context.params["shapes"], context.needs, strict=True)
        ]


class Subtract(Op):
    name = "subtract"
    passes_gradient = True

    @staticmethod
    def forward(context: Context, a: Array, b: Array) -> Array:
        context.params["shapes"] = (a.shape, b.shape)
        return a - b

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        shape_a, shape_b = context.params["shapes"]
        return sum_to_shape(grad, shape_a), sum_to_shape(-grad, shape_b) if context.needs[1] else None


class Multiply(Op):
    name = "multiply"

    @staticmethod
    def forward(context: Context, a: Array, b: Array) -> Array:
        context.save(a, b)
        return _product(context, a, b)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        a, b = context.saved
        need_a, need_b = context.needs
        return (
            sum_to_shape(_product(context, grad, b), a.shape) if need_a else None,
            sum_to_shape(_product(context, grad, a), b.shape) if need_b else None,
        )


def _product(context: Context, a: Array, b: Array) -> Array:
    return context.backend.multiply(a, b) if fits_kernels(context.backend, a, b) else a * b


class Divide(Op):
    name = "divide"

    @staticmethod
    def forward(context: Context, a: Array, b: Array) -> Array:
        context.save(a, b)
        return a / b

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        a, b = context.saved
        need_a, need_b = context.needs
        return (
            sum_to_shape(grad / b, a.shape) if need_a else None,
            sum_to_shape(-grad * a / (b * b), b.shape) if need_b else None,
        )


class Scale(Op):
    name = "scale"

    @staticmethod
    def forward(context: Context, x: Array, factor: float) -> Array:
        context.params["factor"] = factor
        return _scaled(context, x)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return (_scaled(context, grad),)


def _scaled(context: Context, x: Array) -> Array:
    factor = float(context.params["factor"])
    return context.backend.scale(x, factor) if fits_kernels(context.backend, x) else x * factor


class Exp(Op):
    name = "exp"

    @staticmethod
    def forward(context: Context, x: Array) -> Array:
        y = context.backend.xp.exp(x)
        context.save(y)
        return y

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (y,) = context.saved
        return (grad * y,)


class Log(Op):
    name = "log"

    @staticmethod
    def forward(context: Context, x: Array) -> Array:
        context.save(x)
        return context.backend.xp.log(x)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (x,) = context.saved
        return (grad / x,)


class Sqrt(Op):
    name = "sqrt"

    @staticmethod
    def forward(context: Context, x: Array) -> Array:
        y = context.backend.xp.sqrt(x)
        context.save(y)
        return y

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (y,) = context.saved
        return (grad / (2 * y),)


class Power(Op):
    name = "power"

    @staticmethod
    def forward(context: Context, x: Array, exponent: float) -> Array:
        context.save(x)
        context.params["exponent"] = exponent
        return x**exponent

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (x,) = context.saved
        exponent = context.params["exponent"]
        return (grad * exponent * x ** (exponent - 1),)


class Tanh(Op):
    name = "tanh"

    @staticmethod
    def forward(context: Context, x: Array) -> Array:
        y = context.backend.xp.tanh(x)
        context.save(y)
        return y

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (y,) = context.saved
        return (grad * (1 - y * y),)


def add(a: Tensor, b: Tensor) -> Tensor:
    """a + b, broadcast."""
    return apply(Add, a, b)


def subtract(a: Tensor, b: Tensor) -> Tensor:
    """a - b, broadcast."""
    return apply(Subtract, a, b)


def multiply(a: Tensor, b: Tensor) -> Tensor:
    """a · b element by element, broadcast."""
    return apply(Multiply, a, b)


def divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b element by element, broadcast."""
    return apply(Divide, a, b)


def scale(x: Tensor, factor: float) -> Tensor:
    """factor · x for a plain number."""
    return apply(Scale, x, factor=factor)


def exp(x: Tensor) -> Tensor:
    """e to the x."""
    return apply(Exp, x)


def log(x: Tensor) -> Tensor:
    """Natural logarithm."""
    return apply(Log, x)


def sqrt(x: Tensor) -> Tensor:
    """Square root."""
    return apply(Sqrt, x)


def power(x: Tensor, exponent: float) -> Tensor:
    """x to a plain number."""
    return apply(Power, x, exponent=exponent)


def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return apply(Tanh, x)

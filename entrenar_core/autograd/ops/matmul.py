"""Matrix products: batched matmul, the linear layer with a trainable weight, and the one with a frozen weight."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.elementwise import sum_to_shape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, WeightHandle
from entrenar_core.errors import AutogradError


class MatMul(Op):
    """c = a @ b; da = dc @ bᵀ, db = aᵀ @ dc."""

    name = "matmul"

    @staticmethod
    def forward(context: Context, a: Array, b: Array) -> Array:
        context.save(a, b)
        if a.ndim == b.ndim == 2:
            return context.backend.gemm(a, b)
        return context.backend.xp.matmul(a, b)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        a, b = context.saved
        need_a, need_b = context.needs
        if a.ndim == b.ndim == 2:
            return (
                context.backend.gemm(grad, b.T, dtype=a.dtype) if need_a else None,
                context.backend.gemm(a.T, grad, dtype=b.dtype) if need_b else None,
            )
        xp = context.backend.xp
        return (
            sum_to_shape(xp.matmul(grad, xp.swapaxes(b, -1, -2)), a.shape) if need_a else None,
            sum_to_shape(xp.matmul(xp.swapaxes(a, -1, -2), grad), b.shape) if need_b else None,
        )


def rows(x: Array) -> Array:
    """x [..., D] as a matrix [M, D]."""
    return x.reshape(-1, x.shape[-1])


def weight_grad(context: Context, index: int, dy: Array, x: Array) -> Array:
    """dyᵀ @ x [out, in], added in place to the gradient that input `index` has so far, if there is one."""
    buffer = context.grad_buffer(index)
    if buffer is None:
        return context.backend.gemm(dy.T, x, dtype=context.backend.dtype)
    return context.backend.gemm(dy.T, x, out=buffer, beta=1.0)


class Linear(Op):
    """y = x Wᵀ + b with a trainable weight [out, in]; dx = dy W, dW = dyᵀ x, db = Σ dy.

    `operand` is the weight as products take it.
    """

    name = "linear"

    @staticmethod
    def forward(
        context: Context, x: Array, weight: Array, bias: Array | None, operand: Array, full_precision: bool
    ) -> Array:
        context.save(x, weight)
        context.params["operand"] = operand
        y = context.backend.gemm(rows(x), operand.T, dtype=context.backend.dtype if full_precision else x.dtype)
        if bias is not None:
            context.backend.add_bias(y, bias)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        x, _ = context.saved
        need_x, need_weight, need_bias = context.needs
        dy, operand = rows(grad), context.params["operand"]
        return (
            context.backend.gemm(dy, operand, dtype=x.dtype).reshape(x.shape) if need_x else None,
            weight_grad(context, 1, dy, rows(x)) if need_weight else None,
            context.backend.sum_rows(dy) if need_bias else None,
        )


class FrozenLinear(Op):
    """y = x Wᵀ + b with a weight behind a handle, which never has a gradient; dx = dy W."""

    name = "linear"

    @staticmethod
    def forward(context: Context, x: Array, bias: Array | None, weight: WeightHandle, full_precision: bool) -> Array:
        context.params["weight"] = weight
        y = context.backend.linear(rows(x), weight, context.backend.dtype if full_precision else x.dtype)
        if bias is not None:
            context.backend.add_bias(y, bias)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        weight: WeightHandle = context.params["weight"]
        need_x, need_bias = context.needs
        dy = rows(grad)
        dx = context.backend.linear_input_grad(dy, weight) if need_x else None
        return (
            None if dx is None else dx.reshape(*grad.shape[:-1], weight.shape[1]),
            context.backend.sum_rows(dy) if need_bias else None,
        )


def check_bias(op: str, bias: Tensor | None, n_out: int) -> None:
    """Refuse a bias that NumPy would stretch.

    Raises:
        AutogradError: it is not [out].
    """
    if bias is not None and bias.shape != (n_out,):
        raise AutogradError(f"{op}: bias of shape {bias.shape} for {n_out} outputs")


def matmul(a: Tensor, b: Tensor) -> Tensor:
    """a [..., M, K] @ b [..., K, N], leading axes broadcast.

    Raises:
        AutogradError: the inner sizes differ, or an operand has fewer than two axes.
    """
    if min(a.data.ndim, b.data.ndim) < 2 or a.shape[-1] != b.shape[-2]:
        raise AutogradError(f"matmul of shapes {a.shape} and {b.shape}: the inner sizes must be equal")
    return apply(MatMul, a, b)


def linear(
    x: Tensor, weight: Tensor | WeightHandle, bias: Tensor | None = None, *, full_precision: bool = False
) -> Tensor:
    """x [..., in] times weight [out, in] transposed, plus bias [out].

    A `WeightHandle` is a frozen weight in the backend's own form; a tensor may be trainable. With `full_precision` the
    result is of the backend's `dtype`, as logits are, whatever x is.

    Raises:
        AutogradError: the sizes do not fit.
    """
    if len(weight.shape) != 2 or x.shape[-1:] != weight.shape[1:]:
        raise AutogradError(f"linear: input of shape {x.shape} for a weight of shape {tuple(weight.shape)}")
    check_bias("linear", bias, weight.shape[0])
    if isinstance(weight, Tensor):
        return apply(Linear, x, weight, bias, operand=weight.for_products(), full_precision=full_precision)
    return apply(FrozenLinear, x, bias, weight=weight, full_precision=full_precision)

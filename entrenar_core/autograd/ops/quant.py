"""Fake quantization: products with the values that a weight's type would hold, gradients for the weight itself.

Rounding has no useful derivative, so backward pretends that it was the identity (the straight-through estimator, Bengio
et al. 2013). That costs nothing here: the rounded values stand on the gradient slot of their weight, so whatever is
multiplied by them adds its gradient there. In the clipped form, a weight beyond the range of its block gets none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.matmul import check_bias, rows, weight_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.errors import AutogradError


@dataclass(frozen=True, eq=False)
class RoundedWeight:
    """A weight as its type holds it.

    values: [out, in]. handle: the same for products without a gradient. inside: bool [out, in], which weights get a
    gradient; None: all of them (straight through).
    """

    values: Array
    handle: WeightHandle
    inside: Array | None = None


class FakeQuantize(Op):
    """Clipped: the values are given, and dW = dW̃ where the weight lay inside the range of its block, else 0."""

    name = "fake_quantize"

    @staticmethod
    def forward(context: Context, weight: Array, rounded: RoundedWeight) -> Array:
        del weight
        context.params.update(inside=rounded.inside)
        return rounded.values

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return (context.backend.keep_where(grad, context.params["inside"]),)


def fake_quantized(weight: Tensor, rounded: RoundedWeight) -> Tensor:
    """`weight` [out, in] with the values of `rounded`; its gradients are those of the weight.

    Raises:
        AutogradError: the shapes differ.
    """
    if tuple(rounded.values.shape) != weight.shape:
        raise AutogradError(f"rounded values {tuple(rounded.values.shape)} for {weight.name!r} of {weight.shape}")
    if weight.requires_grad and rounded.inside is not None:
        return apply(FakeQuantize, weight, rounded=rounded)
    tensor = Tensor(rounded.values, weight.backend, requires_grad=weight.requires_grad, name=weight.name)
    tensor.slot = weight.slot
    return tensor


class FakeQuantizedLoRA(Op):
    """y = x W̃ᵀ + b with W̃ the rounded W + s·B·A; dx = dy W̃, and A and B get what straight-through leaves of dW̃.

    With dW̃ = dyᵀ x: dB = s·dW̃ Aᵀ and dA = s·Bᵀ dW̃. Straight through, dW̃ is never formed: dB = s·dyᵀ(x Aᵀ) and
    dA = s·(dy B)ᵀ x. Clipped, it is formed and masked, for one layer at a time.
    """

    name = "fake_quantized_lora"

    @staticmethod
    def forward(
        context: Context,
        x: Array,
        lora_a: Array,
        lora_b: Array,
        bias: Array | None,
        rounded: RoundedWeight,
        scale: float,
    ) -> Array:
        y = context.backend.linear(rows(x), rounded.handle)
        if bias is not None:
            context.backend.add_bias(y, bias)
        context.save(x, lora_a, lora_b)
        context.params.update(rounded=rounded, scale=scale)
        return y.reshape(*x.shape[:-1], rounded.handle.shape[0])

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        backend, rounded = context.backend, context.params["rounded"]
        x, _, _ = context.saved
        need_x, need_a, need_b, need_bias = context.needs
        dy = rows(grad)
        da = db = dx = None
        if need_a or need_b:
            da, db = (_straight_through if rounded.inside is None else _clipped)(context, dy, rows(x))
        if need_x:
            dx = backend.linear_input_grad(dy, rounded.handle).reshape(x.shape)
        return dx, da, db, backend.sum_rows(dy) if need_bias else None


def _straight_through(context: Context, dy: Array, x: Array) -> tuple[Array, Array]:
    backend, scale = context.backend, context.params["scale"]
    _, lora_a, lora_b = context.saved
    low = backend.gemm(x, lora_a.T, alpha=scale)
    dlow = backend.gemm(dy, lora_b, alpha=scale)
    return weight_grad(context, 1, dlow, x), weight_grad(context, 2, dy, low)


def _clipped(context: Context, dy: Array, x: Array) -> tuple[Array, Array]:
    backend, scale = context.backend, context.params["scale"]
    _, lora_a, lora_b = context.saved
    dweight = backend.gemm(dy.T, x, dtype=backend.dtype)
    dweight = backend.keep_where(dweight, context.params["rounded"].inside, out=dweight)
    return (
        _added(backend, context.grad_buffer(1), lora_b.T, dweight, scale),
        _added(backend, context.grad_buffer(2), dweight, lora_a.T, scale),
    )


def _added(backend: Backend, buffer: Array | None, a: Array, b: Array, scale: float) -> Array:
    """scale·a@b, added in place to the gradient so far, if there is one."""
    if buffer is None:
        return backend.gemm(a, b, alpha=scale)
    return backend.gemm(a, b, out=buffer, alpha=scale, beta=1.0)


def fake_quantized_lora(
    x: Tensor, rounded: RoundedWeight, lora_a: Tensor, lora_b: Tensor, bias: Tensor | None, scale: float
) -> Tensor:
    """x [..., in] through the rounded W + scale·B·A [out, in], with lora_a [R, in] and lora_b [out, R].

    Raises:
        AutogradError: the shapes do not fit.
    """
    n_out, n_in = rounded.handle.shape
    rank = lora_a.shape[0]
    if x.shape[-1] != n_in or lora_a.shape != (rank, n_in) or lora_b.shape != (n_out, rank):
        raise AutogradError(
            f"fake_quantized_lora: input {x.shape}, weight {(n_out, n_in)}, A {lora_a.shape}, B {lora_b.shape}"
            " do not fit"
        )
    check_bias("fake_quantized_lora", bias, n_out)
    return apply(FakeQuantizedLoRA, x, lora_a, lora_b, bias, rounded=rounded, scale=scale)

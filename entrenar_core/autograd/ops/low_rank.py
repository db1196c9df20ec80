"""The LoRA linear layer as one node: y = x Wᵀ + b + s·(drop(x) Aᵀ) Bᵀ with W frozen (Hu et al. 2021).

Only the input x and the small product h = drop(x) Aᵀ are kept. dB = s·dyᵀ h, g = s·dy B, dA = gᵀ drop(x),
dx = dy W + drop(g A), where dropping again with the same key is the gradient of dropping. `operands` are A and B as
products take them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.matmul import check_bias, rows, weight_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.backend.parameters import DropoutKey
from entrenar_core.errors import AutogradError


@dataclass(frozen=True)
class LowRankParams:
    """scale: alpha/R (alpha/√R for rsLoRA). p: dropout on the adapter's input, off when there is no key."""

    scale: float
    p: float = 0.0
    key: DropoutKey | None = None

    def drop(self, backend: Backend, x: Array) -> Array:
        """x through this layer's dropout."""
        return backend.dropout(x, self.p, self.key) if self.p > 0.0 and self.key is not None else x


class LowRankLinear(Op):
    name = "lora_linear"

    @staticmethod
    def forward(
        context: Context,
        x: Array,
        lora_a: Array,
        lora_b: Array,
        bias: Array | None,
        operands: tuple[Array, Array],
        weight: WeightHandle,
        params: LowRankParams,
    ) -> Array:
        backend, flat, (a, b) = context.backend, rows(x), operands
        low = backend.gemm(params.drop(backend, flat), a.T)
        y = backend.linear(flat, weight)
        backend.gemm(low, b.T, out=y, alpha=params.scale, beta=1.0)
        if bias is not None:
            backend.add_bias(y, bias)
        context.save(x, lora_a, lora_b, low)
        context.params.update(operands=operands, weight=weight, params=params)
        return y.reshape(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        backend = context.backend
        x, _, _, low = context.saved
        params: LowRankParams = context.params["params"]
        a, b = context.params["operands"]
        need_x, need_a, need_b, need_bias = context.needs
        dy, flat = rows(grad), rows(x)
        db = weight_grad(context, 2, dy, backend.scale(low, params.scale)) if need_b else None
        dlow = backend.gemm(dy, b, alpha=params.scale)
        da = weight_grad(context, 1, dlow, params.drop(backend, flat)) if need_a else None
        dx = None
        if need_x:
            dx = backend.linear_input_grad(dy, context.params["weight"])
            _add_adapter_input_grad(backend, dlow, a, params, dx)
            dx = dx.reshape(x.shape)
        return dx, da, db, backend.sum_rows(dy) if need_bias else None


def _add_adapter_input_grad(backend: Backend, dlow: Array, a: Array, params: LowRankParams, dx: Array) -> None:
    if params.p > 0.0 and params.key is not None:
        backend.add(dx, params.drop(backend, backend.gemm(dlow, a)), out=dx)
    else:
        backend.gemm(dlow, a, out=dx, beta=1.0)


def lora_linear(
    x: Tensor, weight: WeightHandle, lora_a: Tensor, lora_b: Tensor, bias: Tensor | None, params: LowRankParams
) -> Tensor:
    """x [..., in] through a frozen weight [out, in] plus the adapter lora_a [R, in], lora_b [out, R].

    Raises:
        AutogradError: the shapes do not fit.
    """
    n_out, n_in = weight.shape
    rank = lora_a.shape[0]
    if x.shape[-1] != n_in or lora_a.shape != (rank, n_in) or lora_b.shape != (n_out, rank):
        raise AutogradError(
            f"lora_linear: input {x.shape}, weight {(n_out, n_in)}, A {lora_a.shape}, B {lora_b.shape} do not fit"
        )
    check_bias("lora_linear", bias, n_out)
    operands = lora_a.for_products(), lora_b.for_products()
    return apply(LowRankLinear, x, lora_a, lora_b, bias, operands=operands, weight=weight, params=params)

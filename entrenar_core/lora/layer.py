"""A linear layer with a low-rank adapter beside its frozen weight (Hu et al. 2021)."""

from __future__ import annotations

from entrenar_core.autograd.ops.low_rank import LowRankParams, lora_linear
from entrenar_core.autograd.ops.quant import fake_quantized_lora
from entrenar_core.autograd.tape import scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.model.layers import Linear, Versions
from entrenar_core.model.module import PassKey


class LoRALinear(Linear):
    """y = x Wᵀ + b + scale·(dropout(x) Aᵀ) Bᵀ with W [out, in] frozen, A [R, in] and B [out, R] trained.

    Args:
        base: the layer it takes the place of; its weight is frozen.
        lora_a: A; its name is the weight's plus ``.lora_a``, as in adapter files.
        lora_b: B, likewise ``.lora_b``.
        scale: alpha/R, or alpha/√R for rsLoRA (Kalajdzievski 2023).
        dropout: fraction of the adapter's input that is dropped in training.
    """

    def __init__(self, base: Linear, lora_a: Tensor, lora_b: Tensor, scale: float, dropout: float = 0.0) -> None:
        base.freeze()
        super().__init__(base.name, base.weight, base.bias)
        self.lora_a = lora_a
        self.lora_b = lora_b
        self.scale = scale
        self.dropout = dropout

    def forward(self, x: Tensor, key: PassKey | None) -> Tensor:
        """x [..., in] -> [..., out]; without a key nothing is dropped.

        With rounding on, x goes through the rounded W + scale·B·A instead, and nothing is ever dropped: the adapter has
        no input of its own then.
        """
        self.show(x)
        if (rounded := self.rounded()) is not None:
            with scope(self.name):
                return fake_quantized_lora(x, rounded, self.lora_a, self.lora_b, self.bias, self.scale)
        params = LowRankParams(self.scale, self.dropout, None if key is None else key.for_module(self.name))
        with scope(self.name):
            return lora_linear(x, self.frozen_handle(), self.lora_a, self.lora_b, self.bias, params)

    def effective_weight(self) -> Array:
        """W + scale·B·A [out, in], a new array."""
        backend = self.weight.backend
        folded = backend.gemm(self.lora_b.data, self.lora_a.data, alpha=self.scale)
        return backend.add(super().effective_weight(), folded, out=folded)

    def versions(self) -> Versions:
        return (*super().versions(), self.lora_a.slot.version.count, self.lora_b.slot.version.count)

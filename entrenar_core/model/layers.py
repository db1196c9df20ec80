"""The layers that decoders are made of: linear, RMS norm, embedding."""

from __future__ import annotations

from entrenar_core.autograd.ops import embedding as embedding_ops
from entrenar_core.autograd.ops import matmul, norm
from entrenar_core.autograd.tape import scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, WeightHandle
from entrenar_core.model.module import Module, PassKey
from entrenar_core.model.packed import PackedWeight


class Linear(Module):
    """y = x Wᵀ + b with W [out, in]; a frozen W is multiplied in the form that the backend likes best, or packed.

    `name` is the GGUF name without its suffix: ``blk.0.attn_q``.
    """

    def __init__(self, name: str, weight: Tensor | PackedWeight, bias: Tensor | None = None) -> None:
        self.name = name
        self.weight = weight
        self.bias = bias
        self._handle: WeightHandle | None = None
        self._handle_version = 0

    def operand(self) -> Tensor | WeightHandle:
        """What to multiply by: the tensor itself while it is trained, else a prepared handle."""
        if isinstance(self.weight, Tensor) and self.weight.requires_grad:
            return self.weight
        return self.frozen_handle()

    def frozen_handle(self) -> WeightHandle:
        """The weight as a handle, prepared again if the weight has changed since (it was trained, or assigned to)."""
        if isinstance(self.weight, PackedWeight):
            return self.weight.handle
        version = self.weight.slot.version.count
        if self._handle is None or self._handle_version != version:
            self._handle = self.weight.backend.prepare_weight(self.weight.data)
            self._handle_version = version
        return self._handle

    def forward(self, x: Tensor, key: PassKey | None) -> Tensor:
        """x [..., in] -> [..., out]; `key` is for layers that draw masks and unused here."""
        del key
        with scope(self.name):
            return matmul.linear(x, self.operand(), self.bias)


class RMSNorm(Module):
    """Root-mean-square normalisation over the last axis."""

    def __init__(self, name: str, weight: Tensor, eps: float) -> None:
        self.name = name
        self.weight = weight
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., D] -> [..., D]."""
        with scope(self.name):
            return norm.rms_norm(x, self.weight, self.eps)


class Embedding(Module):
    """Token embedding [V, D]."""

    def __init__(self, name: str, weight: Tensor) -> None:
        self.name = name
        self.weight = weight

    def forward(self, ids: Array) -> Tensor:
        """ids int32 [B, T] -> [B, T, D]."""
        with scope(self.name):
            return embedding_ops.embedding(self.weight, ids)

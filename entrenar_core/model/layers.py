"""The layers that decoders are made of: linear, RMS norm, embedding.

Between the weight of a linear layer or an embedding and its use there may be a `Rounding`, for training with quantized
weights: products then see the values that the weight's type would hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from entrenar_core.autograd.ops import embedding as embedding_ops
from entrenar_core.autograd.ops import matmul, norm, quant
from entrenar_core.autograd.ops.quant import RoundedWeight
from entrenar_core.autograd.tape import scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, WeightHandle
from entrenar_core.model.module import Module, PassKey
from entrenar_core.model.packed import PackedWeight

Versions = tuple[int, ...]
"""Counts of the changes of the tensors that a weight is made of."""


class Rounding(Protocol):
    """Rounds one weight to its type while it is on; `entrenar_core.quant.fake.FakeQuantizer` is one."""

    @property
    def is_on(self) -> bool: ...

    def rounded(self, versions: Versions, compute: Callable[[], Array]) -> RoundedWeight:
        """The rounded result of `compute`, which is called only if the versions are not those of the last time."""
        ...


class InputObserver(Protocol):
    """Is shown what a layer multiplies by, before it does."""

    def see(self, weight: str, x: Tensor) -> None:
        """x [..., in], the input of the weight with this GGUF name; not to be changed, or kept beyond the pass."""
        ...


class InputRounding(Protocol):
    """Rounds what a layer multiplies by while it is set; `entrenar_core.evaluation.arithmetic` has some."""

    def rounded(self, x: Tensor) -> Tensor:
        """x [..., n] as it is multiplied by, on the same backend; without a gradient."""
        ...


class WeightedModule(Module):
    """A module around one weight [out, in], which may be rounded on its way to where it is used."""

    def __init__(self, name: str, weight: Tensor | PackedWeight) -> None:
        self.name = name
        self.weight = weight
        self.rounding: Rounding | None = None

    def rounded(self) -> RoundedWeight | None:
        """The rounded weight, or None while it is used as it is."""
        if self.rounding is None or not self.rounding.is_on:
            return None
        return self.rounding.rounded(self.versions(), self.effective_weight)

    def effective_weight(self) -> Array:
        """The weight before it is rounded, [out, in]; not to be changed."""
        weight = self.weight
        return weight.data if isinstance(weight, Tensor) else weight.backend.asarray(weight.numpy())

    def versions(self) -> Versions:
        """How often the tensors that `effective_weight` is made of have changed."""
        return (self.weight.slot.version.count,) if isinstance(self.weight, Tensor) else ()


class Linear(WeightedModule):
    """y = x Wᵀ + b with W [out, in]; a frozen W is multiplied in the form that the backend likes best, or packed.

    `name` is the GGUF name without its suffix: ``blk.0.attn_q``. `full_precision` keeps the result, logits, from being
    rounded to the type of activations. `observer`, where one is set, is shown each input, and
    `input_rounding` says what is multiplied by in its place.
    """

    observer: InputObserver | None = None
    input_rounding: InputRounding | None = None

    def __init__(
        self, name: str, weight: Tensor | PackedWeight, bias: Tensor | None = None, *, full_precision: bool = False
    ) -> None:
        super().__init__(name, weight)
        self.bias = bias
        self.full_precision = full_precision
        self._handle: WeightHandle | None = None
        self._handle_version = 0

    def operand(self) -> Tensor | WeightHandle:
        """What to multiply by: the tensor itself while it is trained, else a prepared handle; rounded if that is on."""
        if (rounded := self.rounded()) is not None:
            is_trained = isinstance(self.weight, Tensor) and self.weight.requires_grad
            return quant.fake_quantized(self.weight, rounded) if is_trained else rounded.handle  # type: ignore[arg-type]
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

    def show(self, x: Tensor) -> None:
        """Show an input to the observer, if there is one."""
        if self.observer is not None:
            self.observer.see(f"{self.name}.weight", x)

    def forward(self, x: Tensor, key: PassKey | None) -> Tensor:
        """x [..., in] -> [..., out]; `key` is for layers that draw masks and unused here."""
        del key
        self.show(x)
        if self.input_rounding is not None:
            x = self.input_rounding.rounded(x)
        with scope(self.name):
            return matmul.linear(x, self.operand(), self.bias, full_precision=self.full_precision)


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


class Embedding(WeightedModule):
    """Token embedding [V, D]; of one in blocks, only the rows at hand are decoded."""

    def table(self) -> Tensor | PackedWeight:
        """The table that rows are taken from; rounded if that is on."""
        rounded = self.rounded()
        if rounded is None:
            return self.weight
        if isinstance(self.weight, PackedWeight):
            return Tensor(rounded.values, self.weight.backend)
        return quant.fake_quantized(self.weight, rounded)

    def forward(self, ids: Array) -> Tensor:
        """ids int32 [B, T] -> [B, T, D]."""
        with scope(self.name):
            table = self.table()
            if isinstance(table, Tensor):
                return embedding_ops.embedding(table, ids)
            return embedding_ops.packed_embedding(table.backend, table.handle, ids)

"""Fake quantization for training (Jacob et al. 2018): weights are rounded to their types wherever they are used.

The masters stay float32. Each matrix is rounded once after it has changed, by the codec of the type that the export
will write, and the result is kept until the next change: the micro-batches of a step, a block that is run again for its
activations, and an evaluation share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from entrenar_core.autograd.ops.quant import RoundedWeight
from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.model.layers import Embedding, Linear, Versions
from entrenar_core.model.module import Module


class Switch:
    """Whether the weights of a model are rounded now."""

    def __init__(self) -> None:
        self.is_on = False


class FakeQuantizer:
    """Rounds one weight; the modules that share the weight share this.

    Args:
        name: of the weight, for messages.
        type_name: of its blocks.
        backend: of the weight.
        switch: turns it on and off.
        clipped: whether it is also found which values lie in the range of their block.
    """

    def __init__(self, name: str, type_name: str, backend: Backend, switch: Switch, *, clipped: bool = False) -> None:
        self.name = name
        self.type_name = type_name
        self.backend = backend
        self.switch = switch
        self.clipped = clipped
        self._versions: Versions | None = None
        self._rounded: RoundedWeight | None = None

    @property
    def is_on(self) -> bool:
        return self.switch.is_on

    def rounded(self, versions: Versions, compute: Callable[[], Array]) -> RoundedWeight:
        """The rounded result of `compute` [out, in], computed again only when the versions differ.

        The arrays of the last time are overwritten then.

        Raises:
            FormatError: a value does not fit the type.
        """
        if self._rounded is None or self._versions != versions:
            self._rounded = self._round(compute(), self._rounded)
            self._versions = versions
        return self._rounded

    def forget(self) -> None:
        """Give the rounded values back."""
        self._rounded = self._versions = None

    def _round(self, values: Array, old: RoundedWeight | None) -> RoundedWeight:
        inside = None
        if self.clipped:
            inside = self.backend.empty(values.shape, np.bool_) if old is None else old.inside
        out = None if old is None else old.values
        try:
            rounded = self.backend.fake_quantize(values, self.type_name, out=out, inside=inside)
        except FormatError as error:
            hint = "lower optimizer.lr, or look for the step at which its values blew up"
            raise FormatError(error.message, where=f"tensor {self.name}", hint=hint) from error
        return RoundedWeight(rounded, self.backend.prepare_weight(rounded), inside)


@dataclass(frozen=True)
class FakeQuantization:
    """A model whose weights can be rounded.

    Attributes:
        switch: for all of them.
        layers: a layer that holds the weight, by the weight's name.
        types: the type of each weight that is rounded.
    """

    types: Mapping[str, str]
    layers: Mapping[str, Linear | Embedding]
    switch: Switch = field(default_factory=Switch)

    def masters(self) -> dict[str, Callable[[], np.ndarray]]:
        """What is rounded, by name, float32 [out, in] on the host: the very numbers that the forward pass rounds."""
        return {name: _master(layer) for name, layer in self.layers.items()}


def fake_quantize_weights(model: Module, types: Mapping[str, str], *, clipped: bool = False) -> FakeQuantization:
    """Let weights of a model be rounded; nothing is until the switch is turned.

    Args:
        model: with its adapters, which are rounded together with their weights.
        types: GGML type by the name of the weight.
        clipped: no gradient for weights beyond the range of their block.

    Raises:
        ModelError: the model has no such matrix.
    """
    layers: dict[str, list[Linear | Embedding]] = {}
    for layer in _holders(model):
        layers.setdefault(layer.weight.name, []).append(layer)
    if missing := types.keys() - layers.keys():
        raise ModelError(f"the model has no matrix {min(missing)} that could be quantized")
    quantization = FakeQuantization(types, {name: layers[name][0] for name in types})
    for name, type_name in types.items():
        backend = layers[name][0].weight.backend
        quantizer = FakeQuantizer(name, type_name, backend, quantization.switch, clipped=clipped)
        for layer in layers[name]:
            layer.rounding = quantizer
    return quantization


def _holders(module: Module) -> Iterator[Linear | Embedding]:
    if isinstance(module, (Linear, Embedding)):
        yield module
    for child in module.children():
        yield from _holders(child)


def _master(layer: Linear | Embedding) -> Callable[[], np.ndarray]:
    return lambda: layer.weight.backend.to_host(layer.effective_weight())

"""Fake quantization for training (Jacob et al. 2018): weights are rounded to their types wherever they are used.

The masters stay float32. Each matrix is rounded once after it has changed, by the codec of the type that the export
will write, and the result is kept until the next change: the micro-batches of a step, a block that is run again for its
activations, and an evaluation share it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from entrenar_core.autograd.ops.quant import RoundedWeight
from entrenar_core.backend.base import Array, Backend
from entrenar_core.codecs.base import Codec
from entrenar_core.errors import FormatError, ModelError
from entrenar_core.model.layers import Versions, WeightedModule
from entrenar_core.model.module import Module
from entrenar_core.quant.encoding import Encoding, Encodings, TensorEncoding
from entrenar_core.threads import Threads


class Switch:
    """Whether the weights of a model are rounded now."""

    def __init__(self) -> None:
        self.is_on = False


class FakeQuantizer:
    """Rounds one weight; the modules that share the weight share this.

    Args:
        name: of the weight, for messages.
        encoding: how the export will write it.
        backend: of the weight.
        switch: turns it on and off.
        clipped: whether it is also found which values lie in the range of their block.
    """

    def __init__(
        self, name: str, encoding: Encoding, backend: Backend, switch: Switch, *, clipped: bool = False
    ) -> None:
        self.name = name
        self.encoding = encoding
        self.backend = backend
        self.switch = switch
        self.clipped = clipped
        self._one_thread = Threads(1)
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
            codec = self._codec(values)
            rounded = self.backend.fake_quantize(values, codec, self.encoding.importance, out, inside)
        except FormatError as error:
            hint = "lower optimizer.lr, or look for the step at which its values blew up"
            raise FormatError(error.message, where=f"tensor {self.name}", hint=hint) from error
        return RoundedWeight(rounded, self.backend.prepare_weight(rounded), inside)

    def _codec(self, values: Array) -> Codec:
        """What encodes these values, found as the export finds it: a scale that all rows share depends on them, which
        are brought to the host only then."""
        shape = (int(values.shape[0]), int(values.shape[1]))
        with_rows = TensorEncoding(shape, lambda rows: self.backend.to_host(values[rows]), self.encoding)
        return with_rows.encoder(self._one_thread)


@dataclass(frozen=True)
class FakeQuantization:
    """A model whose weights can be rounded.

    Attributes:
        encodings: how each weight that is rounded will be written, by name.
        layers: a layer that holds it.
        switch: for all of them.
    """

    encodings: Encodings
    layers: Mapping[str, WeightedModule]
    switch: Switch = field(default_factory=Switch)

    @property
    def matrices(self) -> dict[str, int]:
        """How many weights have which type, the most frequent first."""
        return dict(Counter(encoding.type_name for encoding in self.encodings.values()).most_common())

    def round_all(self) -> None:
        """Round every weight anew, as a step does that has changed them all."""
        for layer in self.layers.values():
            if isinstance(layer.rounding, FakeQuantizer):
                layer.rounding.forget()
            layer.rounded()

    def masters(self) -> dict[str, Callable[[], np.ndarray]]:
        """What is rounded, by name, float32 [out, in] on the host: the very numbers that the forward pass rounds."""
        return {name: _master(layer) for name, layer in self.layers.items()}


def fake_quantize_weights(model: Module, encodings: Encodings, *, clipped: bool = False) -> FakeQuantization:
    """Let weights of a model be rounded; nothing is until the switch is turned.

    Args:
        model: with its adapters, which are rounded together with their weights.
        encodings: by the name of the weight, as the export has them.
        clipped: no gradient for weights beyond the range of their block.

    Raises:
        ModelError: the model has no such matrix.
    """
    layers: dict[str, list[WeightedModule]] = {}
    for layer in _holders(model):
        layers.setdefault(layer.weight.name, []).append(layer)
    if missing := encodings.keys() - layers.keys():
        raise ModelError(f"the model has no matrix {min(missing)} that could be quantized")
    quantization = FakeQuantization(encodings, {name: layers[name][0] for name in encodings})
    for name, encoding in encodings.items():
        backend = layers[name][0].weight.backend
        quantizer = FakeQuantizer(name, encoding, backend, quantization.switch, clipped=clipped)
        for layer in layers[name]:
            layer.rounding = quantizer
    return quantization


def _holders(module: Module) -> Iterator[WeightedModule]:
    if isinstance(module, WeightedModule):
        yield module
    for child in module.children():
        yield from _holders(child)


def _master(layer: WeightedModule) -> Callable[[], np.ndarray]:
    return lambda: layer.weight.backend.to_host(layer.effective_weight())

"""Modules: objects that hold parameters and other modules as attributes, and know how to list them.

Parameters carry their GGUF tensor name themselves, so files, checkpoints and error messages need no second naming.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.parameters import DropoutKey
from entrenar_core.model.packed import PackedWeight


@dataclass(frozen=True)
class PassKey:
    """Names one training forward pass, so that its dropout masks can be drawn again."""

    seed: int
    step: int
    micro_batch: int

    def for_module(self, name: str) -> DropoutKey:
        """The key of the mask that the module called `name` draws in this pass."""
        return DropoutKey(self.seed, self.step, self.micro_batch, crc32(name.encode()))


class Module:
    """Base of all modules."""

    def children(self) -> Iterator[Module]:
        """Modules held directly or in a list, in order of definition."""
        for value in vars(self).values():
            if isinstance(value, Module):
                yield value
            elif isinstance(value, list):
                yield from (item for item in value if isinstance(item, Module))

    def parameters(self) -> dict[str, Tensor]:
        """All parameters below this module by their GGUF name, but not the packed ones, which are no tensors."""
        found = {value.name: value for value in vars(self).values() if isinstance(value, Tensor)}
        for child in self.children():
            found.update(child.parameters())
        return found

    def packed_weights(self) -> dict[str, PackedWeight]:
        """The frozen weights below this module that are held in blocks, by their GGUF name."""
        found = {value.name: value for value in vars(self).values() if isinstance(value, PackedWeight)}
        for child in self.children():
            found.update(child.packed_weights())
        return found

    def count_values(self) -> int:
        """How many numbers the parameters and packed weights below this module are."""
        dense = sum(int(tensor.data.size) for tensor in self.parameters().values())
        return dense + sum(weight.n_values for weight in self.packed_weights().values())

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that want gradients."""
        return {name: tensor for name, tensor in self.parameters().items() if tensor.requires_grad}

    def freeze(self) -> None:
        """Let no parameter below this module want a gradient."""
        for tensor in self.parameters().values():
            tensor.requires_grad = False
            tensor.zero_grad()

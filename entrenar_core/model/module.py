"""Modules: objects that hold parameters and other modules as attributes, and know how to list them.

Parameters carry their GGUF tensor name themselves, so files, checkpoints and error messages need no second naming.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import DropoutKey


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
        """All parameters below this module by their GGUF name."""
        found = {value.name: value for value in vars(self).values() if isinstance(value, Tensor)}
        for child in self.children():
            found.update(child.parameters())
        return found

    def trainable(self) -> dict[str, Tensor]:
        """The parameters that want gradients."""
        return {name: tensor for name, tensor in self.parameters().items() if tensor.requires_grad}

    def freeze(self) -> None:
        """Let no parameter below this module want a gradient."""
        for tensor in self.parameters().values():
            tensor.requires_grad = False
            tensor.zero_grad()

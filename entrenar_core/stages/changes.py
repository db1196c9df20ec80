"""What training made of a base file, tensor by tensor, each computed when it is asked for.

A tensor starts as the model held it: as the file has it, or rounded to the blocks of a packed base. What training added
to it is s·B·A of an adapter, or the difference to a weight that was trained itself. Written is start + change, so the
file is the model that was trained, with the losses that were reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.files import AdapterPair, adapter_pairs
from entrenar_core.model.module import Module

Values = Callable[[], np.ndarray]
"""Computes the float32 values of one tensor, a fresh array, when its turn comes."""


@dataclass(frozen=True)
class Changes:
    """How a trained model differs from its base file.

    Attributes:
        base: stays open for as long as values are computed.
        held: weights that the model held in other blocks than the file has, by name: those that were packed on load.
        adapters: by the name of the weight they belong to.
        trained: weights that were trained themselves.
    """

    base: GGUFFile
    held: Mapping[str, PackedMatrix]
    adapters: Mapping[str, AdapterPair]
    trained: Mapping[str, Values]

    @classmethod
    def of(cls, model: Module, base: GGUFFile) -> Changes:
        """What the model is now, against the file that it was loaded from.

        Parameters that the file does not have (a new head, the adapters themselves) are no changes of it.
        """
        packed = model.packed_weights().items()
        return cls(
            base=base,
            held={n: weight.matrix for n, weight in packed if weight.matrix.type_name != base.tensors[n].type_name},
            adapters=adapter_pairs(model),
            trained={n: tensor.numpy for n, tensor in model.trainable().items() if n in base.tensors},
        )

    def start(self, name: str, rows: slice | None = None) -> np.ndarray:
        """What training started from, float32: all of a tensor, or some rows of a matrix."""
        held = self.held.get(name)
        if held is None:
            return self.base.load(name, rows=rows)
        return held.values() if rows is None else held.values(rows)

    def delta(self, name: str) -> np.ndarray | None:
        """What training added, float32; None if it did not touch the tensor."""
        if name in self.adapters:
            return self.adapters[name].delta()
        if name in self.trained:
            return np.asarray(self.trained[name]() - self.base.load(name))
        return None

    def values(self) -> dict[str, Values]:
        """The tensors that differ from the file."""
        folded = {name: _folded(self, name) for name in self.adapters}
        return {**self.held_values(), **folded, **self.trained}

    def held_values(self) -> dict[str, Values]:
        """The values of the weights that were packed on load."""
        return {name: matrix.values for name, matrix in self.held.items()}


def _folded(changes: Changes, name: str) -> Values:
    def compute() -> np.ndarray:
        values = changes.start(name)
        values += changes.adapters[name].delta()
        return values

    return compute

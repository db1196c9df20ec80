"""Tensors of a merge that are made in one way, as one line: layers 0 to 21, ties of A and B over a base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from entrenar_core.config.merge_methods import METHODS
from entrenar_core.merge.passes import Parameters
from entrenar_core.merge.plan import Input, MergedTensor
from entrenar_core.merge.slices import BLOCK

Key = tuple[str, tuple[tuple[int, int], ...]]
"""The method, and each model (the base last) with the distance from a layer of the result to that of the model."""


@dataclass
class Group:
    """Tensors of layers that follow one another, or of none, from the same models."""

    key: Key
    tensors: list[MergedTensor] = field(default_factory=list)
    layers: list[int] = field(default_factory=list)

    @property
    def place(self) -> str:
        """``layers 0 to 21``."""
        return f"layer{_numbers(self.layers, 0)}" if self.layers else "other tensors"

    def made_of(self, names: Sequence[str]) -> str:
        """``ties of a.gguf, b.gguf over base.gguf``, with the layers of a model where their numbers are others."""
        first = self.tensors[0]
        joined = ", ".join(self._source(one, names) for one in first.inputs)
        over = "" if first.base is None else f" over {self._source(first.base, names)}"
        return f"{first.method} of {joined}{over}"

    def parameters(self) -> str:
        """Those of the method, from the least to the most of the group."""
        found: dict[str, list[object]] = {}
        for tensor in self.tensors:
            for name, value in parameters_of(tensor).items():
                found.setdefault(name, []).append(value)
        return ", ".join(f"{name} {_span(values)}" for name, values in found.items())

    def _source(self, one: Input, names: Sequence[str]) -> str:
        shift = _shift(self.tensors[0], one)
        return f"{names[one.model]} layer{_numbers(self.layers, shift)}" if shift else names[one.model]


def short_names(names: Sequence[str]) -> list[str]:
    """As many of the last parts of each path as tell the models apart: ``a/m.gguf``, ``b/m.gguf``."""
    longest = max((len(Path(part).parts) for name in names for part in name.split("+")), default=1)
    for n_parts in range(1, longest):
        short = [_last_parts(name, n_parts) for name in names]
        if len(set(short)) == len(set(names)):
            return short
    return list(names)


def _last_parts(name: str, n_parts: int) -> str:
    """Of a path, or of both in ``model+adapter``."""
    return "+".join(str(Path(*Path(part).parts[-n_parts:])) for part in name.split("+"))


def groups_of(tensors: Sequence[MergedTensor]) -> list[Group]:
    """The groups, those of layers in their order, then the others."""
    layered: list[Group] = []
    others: dict[Key, Group] = {}
    for tensor in sorted(tensors, key=lambda one: _layer(one.name) or 0):
        layer, key = _layer(tensor.name), _key(tensor)
        if layer is None:
            others.setdefault(key, Group(key)).tensors.append(tensor)
            continue
        if not layered or layered[-1].key != key:
            layered.append(Group(key))
        layered[-1].tensors.append(tensor)
        layered[-1].layers.append(layer)
    return [*layered, *others.values()]


def parameters_of(tensor: MergedTensor) -> dict[str, object]:
    """The parameters that the method of a tensor looks at, by their keys in the YAML."""
    takes = METHODS[tensor.method].takes
    names = [field.name for field in fields(Parameters) if field.name in takes]
    return {name.rstrip("_"): getattr(tensor.parameters, name) for name in names}


def _layer(name: str) -> int | None:
    block = BLOCK.fullmatch(name)
    return int(block["layer"]) if block else None


def _key(tensor: MergedTensor) -> Key:
    sources = [*tensor.inputs, *([tensor.base] if tensor.base else [])]
    return tensor.method, tuple((one.model, _shift(tensor, one)) for one in sources)


def _shift(tensor: MergedTensor, one: Input) -> int:
    return (_layer(one.name) or 0) - (_layer(tensor.name) or 0)


def _numbers(layers: Sequence[int], shift: int) -> str:
    first, last = min(layers) + shift, max(layers) + shift
    return f" {first}" if first == last else f"s {first} to {last}"


def _span(values: Sequence[object]) -> str:
    """``0.5``, ``0.2 to 0.8``, with one for each model ``0.5 / 0.2 to 0.8``."""
    columns = zip(*(value for value in values if isinstance(value, tuple)), strict=True)
    spans = [_range(column) for column in columns] or [_range(values)]
    return spans[0] if len(set(spans)) == 1 else " / ".join(spans)


def _range(values: Sequence[object]) -> str:
    first = values[0]
    if isinstance(first, bool) or not isinstance(first, int | float):
        return "none" if first is None else str(first).lower()
    numbers = [value for value in values if isinstance(value, int | float)]
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"

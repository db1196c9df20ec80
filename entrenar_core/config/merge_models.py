"""The models of a merge: files, LoRA adapters over them, and the layers of them that a slice takes."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import Conflict, NonEmpty, Section, UserPath, not_allowed
from entrenar_core.config.merge_parameters import ModelParameters, TensorParameters


def split_reference(text: str) -> dict[str, str]:
    """``model.gguf+adapter`` as `path` and `adapter`; a file whose name has a plus is meant as it is."""
    path, plus, adapter = text.partition("+")
    if not plus or os.path.exists(os.path.expanduser(text)):
        return {"path": text}
    return {"path": path, "adapter": adapter}


def with_path_split(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mapping whose `path` may be ``model.gguf+adapter``, unless it has an adapter of its own."""
    path = entry.get("path")
    if not isinstance(path, str) or entry.get("adapter") is not None:
        return entry
    return {**entry, **split_reference(path)}


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return with_path_split(value)
    return split_reference(value) if isinstance(value, str) else value


class ModelFiles(Section):
    """A model: its file or folder, and an adapter that is applied to it."""

    path: Annotated[str, UserPath] = Field(
        min_length=1, description="a GGUF file (any shard of a split one), or a Hugging Face folder with safetensors"
    )
    adapter: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="a LoRA adapter (GGUF, or a PEFT folder) that is applied to it"
    )

    @property
    def files(self) -> ModelFiles:
        """The model alone, without what a merge says of it."""
        return ModelFiles(path=self.path, adapter=self.adapter)

    @property
    def name(self) -> str:
        """As messages name it: ``model.gguf+adapter``."""
        return self.path if self.adapter is None else f"{self.path}+{self.adapter}"

    @property
    def key(self) -> tuple[str, str | None]:
        """Equal for the same files, however their paths are written."""
        adapter = None if self.adapter is None else os.path.abspath(self.adapter)
        return os.path.abspath(self.path), adapter


class MergeModel(ModelParameters, ModelFiles):
    """A model that is merged, with the parameters that it has of its own."""


def _are_layers(value: Any) -> bool:
    is_pair = isinstance(value, (list, tuple)) and len(value) == 2
    return is_pair and all(isinstance(one, int) and not isinstance(one, bool) and one >= 0 for one in value)


def _layers(value: Any) -> Any:
    if not _are_layers(value):
        raise not_allowed("the first layer and the one after the last, such as [0, 16]")
    first, end = value
    if first >= end:
        raise not_allowed(f"layers in their order, and [{first}, {end}] has none")
    return tuple(value)


class SliceSource(MergeModel):
    """A model whose layers a slice takes."""

    layers: Annotated[
        tuple[int, int],
        BeforeValidator(_layers, json_schema_input_type=Annotated[list[int], Field(min_length=2, max_length=2)]),
    ] = Field(description="the first layer and the one after the last: [0, 16] are the layers 0 to 15")


def _sources(value: Any) -> Any:
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list such as [{path: a.gguf, layers: [0, 16]}]")
    return tuple(map(_written, value))


class Slice(TensorParameters):
    """Layers of the result: as many as each of its sources gives."""

    sources: Annotated[
        tuple[SliceSource, ...],
        BeforeValidator(_sources, json_schema_input_type=Annotated[list[SliceSource], Field(min_length=1)]),
    ] = Field(description="the models whose layers are merged; for passthrough one")

    @property
    def n_layers(self) -> int:
        first, end = self.sources[0].layers
        return end - first

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        sources = given.get("sources")
        counts = [_n_layers(source) for source in sources] if isinstance(sources, (list, tuple)) else []
        for index, count in enumerate(counts):
            if counts[0] is not None and count not in (None, counts[0]):
                message = f"has {count} layers, and the first source of the slice {counts[0]}"
                yield Conflict(f"sources.{index}.layers", message, "give all sources of a slice the same number")


def _n_layers(source: Any) -> int | None:
    """Of a source that may be wrong in other ways."""
    layers = source.get("layers") if isinstance(source, Mapping) else getattr(source, "layers", None)
    if layers is None or not _are_layers(layers):
        return None
    first, end = layers
    return int(end - first)


def _models(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list of models such as [a.gguf, {path: b.gguf, weight: 0.5}]")
    return tuple(map(_written, value))


def _slices(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list such as [{sources: [{path: a.gguf, layers: [0, 16]}]}]")
    return tuple(value)


Base = Annotated[ModelFiles | None, BeforeValidator(_written, json_schema_input_type=NonEmpty | ModelFiles | None)]
Models = Annotated[
    tuple[MergeModel, ...] | None,
    BeforeValidator(_models, json_schema_input_type=Annotated[list[NonEmpty | MergeModel], Field(min_length=1)] | None),
]
Slices = Annotated[
    tuple[Slice, ...] | None,
    BeforeValidator(_slices, json_schema_input_type=Annotated[list[Slice], Field(min_length=1)] | None),
]

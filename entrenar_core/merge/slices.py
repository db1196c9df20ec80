"""Which layers of which models make each slice of the result. A merge of whole models is one slice of all layers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.config.merge_models import MergeModel, ModelFiles, Slice, SliceSource
from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.merge.model_tensors import ModelTensors

BLOCK = re.compile(r"blk\.(?P<layer>\d+)\.(?P<rest>.+)")


@dataclass(frozen=True)
class LayerSource:
    """Layers of a model.

    Attributes:
        model: its number among those that are open.
        first: the first of its layers.
        section: parameters of its own; None: it has none.
    """

    model: int
    first: int
    section: MergeModel | None = None


@dataclass(frozen=True)
class PlannedSlice:
    """Layers of the result: how many, from where, over which layers of the base, with which parameters."""

    n_layers: int
    sources: tuple[LayerSource, ...]
    base: LayerSource | None
    section: Slice | None = None


def plan_slices(config: MergeConfig, models: Sequence[ModelTensors]) -> list[PlannedSlice]:
    """The slices of the result in their order.

    Args:
        config: of the merge.
        models: open, in the order of `config.files`.

    Raises:
        ConfigError: a slice asks for layers that a model does not have, or does not say which layers of the base.
        ModelError: models that are merged as a whole have different numbers of layers.
    """
    if config.merge.slices is None:
        return [_whole(config, models)]
    return [_slice(number, part, config, models) for number, part in enumerate(config.merge.slices)]


def count_layers(model: ModelTensors) -> int:
    """How many blocks the tensors of a model belong to."""
    found = (BLOCK.fullmatch(name) for name in model.shapes)
    return 1 + max((int(one["layer"]) for one in found if one), default=-1)


def _whole(config: MergeConfig, models: Sequence[ModelTensors]) -> PlannedSlice:
    depths = [count_layers(model) for model in models]
    for model, depth in zip(models, depths, strict=True):
        if depth != depths[0]:
            message = f"this model has {depth} layers, and {models[0].path} has {depths[0]}"
            raise ModelError(message, where=model.path, hint="choose layers of each with merge.slices")
    numbers = {files.key: number for number, files in enumerate(config.files)}
    named = [LayerSource(numbers[one.key], 0, one) for one in config.merge.models or ()]
    base = config.merge.base
    return _over(config, depths[0], named, None if base is None else LayerSource(numbers[base.key], 0), None)


def _slice(number: int, part: Slice, config: MergeConfig, models: Sequence[ModelTensors]) -> PlannedSlice:
    place = f"merge.slices[{number}]"
    numbers = {files.key: index for index, files in enumerate(config.files)}
    named = [LayerSource(numbers[one.key], one.layers[0], one) for one in part.sources]
    for index, source in enumerate(part.sources):
        _check_range(f"{place}.sources[{index}].layers", source.layers, models[numbers[source.key]])
    base = None
    if config.merge.base is not None and _looks_at_base(config):
        layers = _layers_of_base(place, part.sources, config.merge.base)
        base = LayerSource(numbers[config.merge.base.key], layers[0])
        _check_range(place, layers, models[base.model])
    return _over(config, part.n_layers, named, base, part)


def _over(
    config: MergeConfig, n_layers: int, named: Sequence[LayerSource], base: LayerSource | None, section: Slice | None
) -> PlannedSlice:
    """A slice whose base is taken out of the models, or is the first of the two."""
    facts = config.merge.facts
    if base is None or not _looks_at_base(config):
        return PlannedSlice(n_layers, tuple(named), None, section)
    others = tuple(one for one in named if one.model != base.model)
    subtracted = base if config.output.task_vector else None
    if facts.base_is_a_model:
        return PlannedSlice(n_layers, (base, *others), subtracted, section)
    if facts.over_base == "never":
        return PlannedSlice(n_layers, tuple(named), subtracted, section)
    return PlannedSlice(n_layers, others, base, section)


def _looks_at_base(config: MergeConfig) -> bool:
    """Whether the base takes part, and does not only give the metadata."""
    facts = config.merge.facts
    return facts.over_base != "never" or facts.base_is_a_model or config.output.task_vector


def _layers_of_base(place: str, sources: Sequence[SliceSource], base: ModelFiles) -> tuple[int, int]:
    """Those that are named; else those of the other sources, if all have the same."""
    named = [one.layers for one in sources if one.key == base.key]
    ranges = {one.layers for one in sources}
    if not named and len(ranges) != 1:
        hint = f"add a source {{path: {base.path}, layers: [FIRST, END]}}"
        raise ConfigError("it is not clear which layers of the base belong to this slice", where=place, hint=hint)
    return named[0] if named else sources[0].layers


def _check_range(place: str, layers: tuple[int, int], model: ModelTensors) -> None:
    depth = count_layers(model)
    if layers[1] > depth:
        message = f"there are no layers {list(layers)} in {model.path}: it has {depth}"
        raise ConfigError(message, where=place, hint=f"layers are counted from 0, and the end is at most {depth}")

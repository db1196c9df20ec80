"""What each tensor of the result is made of: which tensors of which models, by which method, with which parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from entrenar_core.config.base import dotted
from entrenar_core.config.merge_file import MergeConfig, Merging
from entrenar_core.config.merge_parameters import filters_in
from entrenar_core.errors import ModelError
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.merge.merged_metadata import TASK_VECTOR, LayerOrigin, merged_metadata
from entrenar_core.merge.model_tensors import Entries, ModelTensors, Shape
from entrenar_core.merge.parameters import filter_name, layer_fraction
from entrenar_core.merge.passes import Parameters
from entrenar_core.merge.slices import BLOCK, LayerSource, PlannedSlice, plan_slices
from entrenar_core.merge.tensor_parameters import check_parameters, tensor_parameters

PASSTHROUGH = "passthrough"
_AFTER_THE_LAYERS = ("output.", "output_norm.")
"""Tensors that the last slice gives; those before the layers are of the first one."""

NORMS_PLUS_ONE = frozenset(("gemma", "gemma2", "gemma3", "gemma-embedding", "nemotron"))
"""GGUF architectures whose norms are stored as 1 + weight."""


@dataclass(frozen=True)
class Input:
    """A tensor of one of the open models."""

    model: int
    name: str


@dataclass(frozen=True)
class MergedTensor:
    """A tensor of the result.

    Attributes:
        name, shape: of the result, in numpy order.
        method: by its name in `registry`.
        parameters: with an entry for each input.
        inputs: of the models that are joined, in the order of the method.
        base: what their changes are counted from; for a task vector also where the method does not look at it.
        offset: subtracted from every input, the base too, before the merge, and added afterwards.
    """

    name: str
    shape: Shape
    method: str
    parameters: Parameters
    inputs: tuple[Input, ...]
    base: Input | None
    offset: float = 0.0

    @property
    def is_copy(self) -> bool:
        """Whether it is a tensor of one model as it is."""
        return self.method == PASSTHROUGH and self.parameters.scale == (1.0,)

    @property
    def like(self) -> Input:
        """The tensor whose type it has where no other is asked for."""
        return self.inputs[0] if self.base is None else self.base


@dataclass(frozen=True)
class MergePlan:
    """All of a merge.

    Attributes:
        models: open, in the order of `MergeConfig.files`.
        tensors: of the result, in its order.
        metadata: of the result, but for the types of its tensors.
        notices: what is not as it was asked for.
        is_task_vector: whether each result is written without its base.
    """

    models: tuple[ModelTensors, ...]
    tensors: tuple[MergedTensor, ...]
    metadata: Entries
    notices: tuple[str, ...]
    is_task_vector: bool = False


@dataclass(frozen=True)
class _Origin:
    """Where a tensor of the result comes from: the slice, which of its layers (None: none), and the name in a layer."""

    name: str
    part: PlannedSlice
    layer: int | None
    rest: str

    def name_in(self, source: LayerSource) -> str:
        return self.name if self.layer is None else f"blk.{source.first + self.layer}.{self.rest}"

    @property
    def t(self) -> float:
        return 0.0 if self.layer is None else layer_fraction(self.layer, self.part.n_layers)


def plan_merge(
    config: MergeConfig,
    models: Sequence[ModelTensors],
    *,
    tokenizer: Entries | None = None,
) -> MergePlan:
    """Plan a merge.

    Args:
        config: what is merged, and how.
        models: open, in the order of `config.files`, with embeddings of one vocabulary.
        tokenizer: the keys ``tokenizer.*`` of that vocabulary; None: those of the base, or of the first model.

    Raises:
        ConfigError: layers that are not there, or parameters that the method cannot work with; the key is named.
        ModelError: a tensor is missing in a model or has another shape there, or the method takes a base from what is a
            change against one.
    """
    parts = plan_slices(config, models)
    _check_changes(config.merge, parts, models)
    lead = parts[0].sources[0].model
    origins = list(_origins(parts, models))
    tensors = tuple(_merged(origin, config.merge, models) for origin in origins)
    template = 0 if config.merge.base is not None else lead
    layers = [
        LayerOrigin(part.sources[0].model, part.sources[0].first + layer)
        for part in parts
        for layer in range(part.n_layers)
    ]
    is_change = config.output.task_vector or all(
        _is_task_vector(models[source.model]) for part in parts for source in part.sources
    )
    names = {filter_name(one.name, models[lead].architecture) for one in tensors}
    return MergePlan(
        models=tuple(models),
        tensors=tensors,
        metadata=merged_metadata(config, models, template, layers, tokenizer=tokenizer, is_change=is_change),
        notices=(*config.notices, *_filters_of_nothing(config.merge, names), *_nothing_dropped(config.merge, tensors)),
        is_task_vector=config.output.task_vector,
    )


def _origins(parts: Sequence[PlannedSlice], models: Sequence[ModelTensors]) -> Iterator[_Origin]:
    """In the order of the first model; layers of slices one after another where its first layer stands."""
    lead = models[parts[0].sources[0].model]
    if len(parts) == 1 and parts[0].section is None:
        for name in lead.shapes:
            block = BLOCK.fullmatch(name)
            yield _Origin(name, parts[0], int(block["layer"]) if block else None, block["rest"] if block else name)
        return
    has_layers = False
    for name in lead.shapes:
        if BLOCK.fullmatch(name) is None:
            yield _Origin(name, parts[-1] if name.startswith(_AFTER_THE_LAYERS) else parts[0], None, name)
        elif not has_layers:
            has_layers = True
            yield from _layer_origins(parts, models)


def _layer_origins(parts: Sequence[PlannedSlice], models: Sequence[ModelTensors]) -> Iterator[_Origin]:
    number = 0
    for part in parts:
        source = part.sources[0]
        for layer in range(part.n_layers):
            prefix = f"blk.{source.first + layer}."
            for name in models[source.model].shapes:
                if name.startswith(prefix):
                    rest = name.removeprefix(prefix)
                    yield _Origin(f"blk.{number}.{rest}", part, layer, rest)
            number += 1


def _merged(origin: _Origin, merge: Merging, models: Sequence[ModelTensors]) -> MergedTensor:
    inputs = tuple(Input(source.model, origin.name_in(source)) for source in origin.part.sources)
    base = origin.part.base
    over = None if base is None else Input(base.model, origin.name_in(base))
    shape = _common_shape(origin.name, [*inputs, *([over] if over else [])], models)
    if origin.name == ROPE_FREQS:
        one = (1.0,)
        copied = Parameters(weight=one, density=one, gamma=one, epsilon=one, scale=one)
        return MergedTensor(origin.name, shape, PASSTHROUGH, copied, (over or inputs[0],), None)
    filtered = filter_name(origin.name, models[inputs[0].model].architecture)
    parameters = tensor_parameters(merge, origin.part, filtered, origin.t)
    check_parameters(origin.name, merge, parameters)
    tensor = MergedTensor(origin.name, shape, merge.method, parameters, inputs, over)
    return replace(tensor, offset=_offset(tensor, models))


def _common_shape(name: str, inputs: Sequence[Input], models: Sequence[ModelTensors]) -> Shape:
    first = inputs[0]
    shape = models[first.model].shapes[first.name]
    for one in inputs[1:]:
        model = models[one.model]
        if one.name not in model.shapes:
            raise ModelError(
                f"the tensor {one.name} is missing, which {models[first.model].path} has for {name}",
                where=model.path,
                hint="only models with the same tensors can be merged",
            )
        if model.shapes[one.name] != shape:
            raise ModelError(
                f"the tensor {one.name} has shape {list(model.shapes[one.name])}, in {models[first.model].path} "
                f"{list(shape)}",
                where=model.path,
                hint="only models of one shape can be merged",
            )
    return shape


def _offset(tensor: MergedTensor, models: Sequence[ModelTensors]) -> float:
    """1 for norms that are stored as 1 + weight, unless they are only copied or one of them is a change."""
    architecture = models[tensor.inputs[0].model].architecture
    if architecture not in NORMS_PLUS_ONE or not tensor.name.endswith("norm.weight"):
        return 0.0
    has_changes = any(_is_task_vector(models[one.model]) for one in tensor.inputs)
    return 0.0 if tensor.is_copy or has_changes else 1.0


def _check_changes(merge: Merging, parts: Sequence[PlannedSlice], models: Sequence[ModelTensors]) -> None:
    if merge.facts.over_base == "never":
        return
    measured = [source.model for part in parts for source in part.sources if part.base is not None]
    wrong = next((models[number] for number in measured if _is_task_vector(models[number])), None)
    if wrong is not None:
        raise ModelError(
            f"this is a change already, and {merge.method} takes the base from it once more",
            where=wrong.path,
            hint="add changes to a model with --method linear --no-normalize",
        )


def _is_task_vector(model: ModelTensors) -> bool:
    return any(key == TASK_VECTOR and value.value is True for key, value in model.metadata)


def _filters_of_nothing(merge: Merging, names: set[str]) -> Iterator[str]:
    """Filters that no tensor has in its name."""
    for place, level in merge.levels():
        for key, entry in filters_in(level):
            if not any(map(entry.matches, names)):
                yield f"{dotted((*place, key))}: no tensor has {entry.filter!r} in its name"


def _nothing_dropped(merge: Merging, tensors: Sequence[MergedTensor]) -> Iterator[str]:
    """Methods that drop at random, without a share that is kept."""
    used = [tensor.parameters.density for tensor in tensors if tensor.method == merge.method]
    if "seed" in merge.facts.takes and all(density == 1 for densities in used for density in densities):
        yield f"{merge.method} drops nothing: merge.density is 1 (usual are 0.1 to 0.5)"

"""What a run will change, known before it starts, and the types that its model will be written in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from entrenar_core.config.root import Config
from entrenar_core.gguf.names import MODULES, ROPE_FREQS
from entrenar_core.lora.inject import target_modules
from entrenar_core.model.heads import HEAD, HeadSpec
from entrenar_core.quant.mixes import ModelFacts
from entrenar_core.quant.plan import model_facts
from entrenar_core.stages.base_model import BaseModel, lora_settings
from entrenar_core.stages.output_types import NEW_TYPE, OutputTypes, plan_output_types
from entrenar_core.stages.qat import limited_to_layers

Shapes = dict[str, tuple[int, ...]]


def trained_shapes(config: Config, base: BaseModel, head: HeadSpec | None) -> Shapes:
    """Name and shape of every tensor that is trained."""
    weights = _weights(base)
    if config.lora is not None:
        return _adapter_shapes(config.lora.rank, lora_settings(config).targets, weights) | _head_shapes(base, head)
    if head is not None:
        weights.pop("output.weight", None)
    return weights | _head_shapes(base, head)


def _head_shapes(base: BaseModel, head: HeadSpec | None) -> Shapes:
    if head is None:
        return {}
    return {f"{HEAD}.weight": (head.n_outputs, base.spec.hidden_size), f"{HEAD}.bias": (head.n_outputs,)}


def _adapter_shapes(rank: int, targets: Sequence[str] | str, weights: Shapes) -> Shapes:
    """A [R, in] and B [out, R] of every layer that the targets name."""
    layers = {name: shape for name, shape in weights.items() if name.startswith("blk.") and _is_module(name)}
    chosen = target_modules(targets, {name.split(".")[-2] for name in layers})
    adapters: Shapes = {}
    for name, (n_out, n_in) in layers.items():
        if name.split(".")[-2] in chosen:
            adapters[f"{name}.lora_a"], adapters[f"{name}.lora_b"] = (rank, n_in), (n_out, rank)
    return adapters


def _weights(base: BaseModel) -> Shapes:
    return {name: shape for name, shape in base.shapes().items() if name != ROPE_FREQS}


def _is_module(name: str) -> bool:
    return name.endswith(".weight") and name.split(".")[-2] in MODULES.values()


def writes_model(config: Config) -> bool:
    """Whether the run leaves a model.gguf."""
    return config.output.gguf and (config.lora is None or config.output.merge_adapter)


def output_plan(config: Config, base: BaseModel, trained: Iterable[str]) -> OutputTypes:
    """The types of the model that a run writes which trains these tensors; adapters go by their own names.

    Raises:
        ConfigError: the types cannot be had.
    """
    sources, changed = sources_of(base), changed_tensors(base, trained)
    plan = plan_output_types(sources, changed, config, facts_of(base))
    return limited_to_layers(plan, sources, changed, config)


def facts_of(base: BaseModel) -> ModelFacts:
    """What the mixes look at besides the tensors."""
    if base.file is not None:
        return model_facts(base.file.metadata)
    spec = base.spec
    return ModelFacts(spec.architecture, spec.num_layers, spec.num_heads, spec.num_kv_heads)


def sources_of(base: BaseModel) -> dict[str, tuple[tuple[int, ...], str]]:
    """Shape and type of each tensor that training starts from."""
    if base.file is not None:
        return {name: (tuple(info.shape), info.type_name) for name, info in base.file.tensors.items()}
    matrix_type = NEW_TYPE if base.student is None else base.student.matrix_type
    return {name: (shape, matrix_type if len(shape) > 1 else "F32") for name, shape in base.shapes().items()}


def changed_tensors(base: BaseModel, trained: Iterable[str]) -> set[str]:
    """The tensors of the model that come out different: trained, merged, or held in other blocks than the file's."""
    if base.file is not None and base.merge is not None and base.merge.others:
        return {name for name in base.file.tensors if name != ROPE_FREQS}
    return _held_otherwise(base) | {name.removesuffix(".lora_a").removesuffix(".lora_b") for name in trained}


def _held_otherwise(base: BaseModel) -> set[str]:
    if base.file is None:
        return set()
    return {name for name, type_name in base.held_as.items() if base.file.tensors[name].type_name != type_name}

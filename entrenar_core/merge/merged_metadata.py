"""The metadata of a merge: those of the base or first model, for the layers of the result, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import entrenar_core
from entrenar_core.config.base import content_hash
from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.config.merge_models import ModelFiles
from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue, ValueType, replaced_entries
from entrenar_core.merge.model_tensors import Entries, ModelTensors
from entrenar_core.merge.slices import count_layers

PROVENANCE = "entrenar."
TASK_VECTOR = "entrenar.merge.task_vector"
_TOKENIZER = "tokenizer."
_NOT_OF_THE_RESULT = (PROVENANCE, keys.QUANTIZE_IMATRIX_PREFIX)


@dataclass(frozen=True)
class LayerOrigin:
    """The model and the layer of it that gives a layer of the result its settings."""

    model: int
    layer: int


def merged_metadata(
    config: MergeConfig,
    models: Sequence[ModelTensors],
    template: int,
    layers: Sequence[LayerOrigin],
    *,
    tokenizer: Entries | None = None,
    is_change: bool = False,
) -> Entries:
    """The keys of the result in the order of the template, then those that say how it came about.

    Args:
        config: of the merge.
        models: open, in the order of `config.files`.
        template: number of the model whose keys it begins with.
        layers: of the result.
        tokenizer: all keys ``tokenizer.*``, in place of those of the template.
        is_change: whether the result is a change against a base, and no model.

    Raises:
        ModelError: a model has no value of a setting that differs from layer to layer.
    """
    changed = {**_general(config), **_of_layers(models, template, layers)}
    if tokenizer is not None:
        changed |= dict(tokenizer) | _vocabulary_size(models[template], tokenizer)
    drops_size = config.merge.slices is not None
    kept = [
        (key, value)
        for key, value in models[template].metadata
        if not key.startswith(_NOT_OF_THE_RESULT)
        and not (tokenizer is not None and _is_gone(key, changed))
        and not (drops_size and key == keys.GENERAL_SIZE_LABEL)
    ]
    return [*replaced_entries(kept, changed), *_provenance(config, is_change=is_change).items()]


def _is_gone(key: str, changed: Mapping[str, MetadataValue]) -> bool:
    """Whether another tokenizer has no such key."""
    return key.startswith(_TOKENIZER) and key not in changed


def _general(config: MergeConfig) -> dict[str, MetadataValue]:
    if config.output.path is None:
        return {}
    return {keys.GENERAL_NAME: MetadataValue.string(Path(config.output.path).name.removesuffix(".gguf"))}


def _vocabulary_size(model: ModelTensors, tokenizer: Entries) -> dict[str, MetadataValue]:
    """The number of tokens, where the model says it."""
    key = keys.architecture_key(model.architecture, keys.VOCAB_SIZE)
    tokens = dict(tokenizer).get(keys.TOKENIZER_TOKENS)
    if tokens is None or all(known != key for known, _ in model.metadata):
        return {}
    return {key: MetadataValue.uint32(len(tokens.value))}


def _of_layers(
    models: Sequence[ModelTensors], template: int, layers: Sequence[LayerOrigin]
) -> dict[str, MetadataValue]:
    """The number of layers, and settings that are given layer by layer."""
    known = [dict(model.metadata) for model in models]
    depths = [count_layers(model) for model in models]
    if list(layers) == [LayerOrigin(template, layer) for layer in range(depths[template])]:
        return {}
    prefix = f"{models[template].architecture}."
    changed = {prefix + keys.BLOCK_COUNT: MetadataValue.uint32(len(layers))}
    for key in known[template].keys() - {prefix + keys.ROPE_DIMENSION_SECTIONS}:
        value = known[template][key]
        numbers = _by_layer(value, depths[template]) if key.startswith(prefix) else None
        if numbers is not None and value.element_type is not None:
            found = [_of_layer(key, known[one.model].get(key), one, models, depths) for one in layers]
            changed[key] = MetadataValue.array(value.element_type, np.asarray(found, np.asarray(numbers).dtype))
    return changed


def _of_layer(
    key: str, value: MetadataValue | None, origin: LayerOrigin, models: Sequence[ModelTensors], depths: Sequence[int]
) -> Any:
    numbers = None if value is None else _by_layer(value, depths[origin.model])
    if numbers is not None:
        return numbers[origin.layer]
    if value is None or value.type is ValueType.ARRAY:
        hint = "only layers of models that give it for each layer can be put together"
        raise ModelError(f"{key} has no value for each layer", where=models[origin.model].path, hint=hint)
    return value.value


def _by_layer(value: MetadataValue, n_layers: int) -> Any:
    """The values of a setting that each layer has one of; None for all others."""
    is_numbers = value.type is ValueType.ARRAY and value.element_type not in (ValueType.STRING, ValueType.ARRAY)
    return value.value if is_numbers and len(value.value) == n_layers else None


def _provenance(config: MergeConfig, *, is_change: bool) -> dict[str, MetadataValue]:
    """How the file came to be; equal settings over equal files give equal keys."""
    settings = config.merge.model_dump(mode="json", by_alias=True)
    found = {
        "entrenar.merge.version": MetadataValue.string(entrenar_core.__version__),
        "entrenar.merge.method": MetadataValue.string(config.merge.method),
        "entrenar.merge.settings_sha256": MetadataValue.string(content_hash(settings)),
        "entrenar.merge.models": MetadataValue.array(ValueType.STRING, [_file_name(one) for one in config.files]),
    }
    if config.merge.base is not None:
        found["entrenar.merge.base"] = MetadataValue.string(_file_name(config.merge.base))
    if is_change:
        found[TASK_VECTOR] = MetadataValue.bool(True)
    return found


def _file_name(files: ModelFiles) -> str:
    """Without folders, which say nothing to others."""
    adapter = "" if files.adapter is None else f"+{Path(files.adapter).name}"
    return f"{Path(files.path).name}{adapter}"

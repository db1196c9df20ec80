"""Where a merge writes to: a GGUF file or a Hugging Face folder, seen to be possible before any work is done."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from entrenar_core.codecs.ggml_types import is_few_bits
from entrenar_core.config.merge_file import MergeConfig
from entrenar_core.errors import OutputError
from entrenar_core.gguf import keys
from entrenar_core.gguf.atomic import check_writable
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.values import MetadataValue, replaced_entries
from entrenar_core.hugging_face.atomic_folder import check_replaceable
from entrenar_core.hugging_face.rope import Floats
from entrenar_core.merge.gguf_output import GGUFOutput
from entrenar_core.merge.hugging_face_output import HuggingFaceOutput
from entrenar_core.merge.model_tensors import Entries
from entrenar_core.merge.output import Output
from entrenar_core.merge.plan import MergePlan
from entrenar_core.merge.types import MergedTypes, folder_types, merged_types
from entrenar_core.quant.mixes import file_type
from entrenar_core.quant.plan import model_facts
from entrenar_core.stages.output_file import check_output, check_report, plain_files

_UNNAMED = "merged.gguf"
"""What messages call an output that a dry run does not name."""


def check_merge_output(config: MergeConfig, *, overwrite: bool) -> None:
    """See that the result and its report may be written.

    Raises:
        OutputError: a name is that of an input, is taken, or cannot be made.
    """
    named = _named(config)
    inside = [file for one in named if one.is_dir() for file in one.iterdir()]
    inputs = plain_files(*map(str, [*named, *inside]))
    path = None if config.output.path is None else Path(config.output.path)
    if path is not None:
        _check_name(path, config.output.format)
        if config.output.format == "safetensors":
            _check_folder(path, config, overwrite=overwrite)
        else:
            check_output(path, inputs, overwrite=overwrite)
    if config.output.report is not None:
        check_report(Path(config.output.report), inputs, path, overwrite=overwrite)


def _named(config: MergeConfig) -> list[Path]:
    """Models and adapters."""
    return [Path(one) for files in config.files for one in (files.path, files.adapter) if one is not None]


def types_of_output(config: MergeConfig, plan: MergePlan) -> MergedTypes:
    """The type of each tensor. Raises ConfigError for one that cannot be written."""
    if config.output.format == "safetensors":
        return folder_types(plan, config.output.type)
    return merged_types(plan, config.output.type, model_facts({key: value.plain for key, value in plan.metadata}))


def merge_output(config: MergeConfig, plan: MergePlan, types: Mapping[str, str]) -> Output:
    """The files as they will be.

    Raises:
        FormatError, ModelError, TokenizerError: the format has no such model.
    """
    path = Path(config.output.path or _UNNAMED)
    specs = [(tensor.name, tensor.shape, types[tensor.name]) for tensor in plan.tensors]
    if config.output.format == "safetensors":
        first = Path(plan.models[0].path)
        like = first if first.is_dir() else None
        return HuggingFaceOutput(path, plan.metadata, specs, rope_factors=_rope_factors(plan), like=like)
    return GGUFOutput(path, _with_types(plan.metadata, config.output.type, types), specs)


def _check_name(path: Path, form: str) -> None:
    """See that a name does not promise another format."""
    if form == "gguf" and path.suffix == ".safetensors":
        raise OutputError(
            "this is no name of a GGUF file",
            where=str(path),
            hint=f"-o {path.stem}.gguf, or --format safetensors with the name of a folder",
        )
    if form == "safetensors" and path.suffix in (".gguf", ".safetensors"):
        raise OutputError(
            "a folder is written, and this is the name of a file", where=str(path), hint=f"-o {path.stem}"
        )


def _check_folder(path: Path, config: MergeConfig, *, overwrite: bool) -> None:
    check_replaceable(path)
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", where=str(path), hint=f"mkdir -p {path.parent}")
    check_writable(path)
    if not path.exists():
        return
    if any(one.exists() and path.samefile(one) for one in _named(config)):
        raise OutputError(
            "this is a model that is read; it would be lost", where=str(path), hint="choose another name with -o"
        )
    if not overwrite:
        raise OutputError("the folder is there already", where=str(path), hint="replace it with --overwrite")


def _with_types(metadata: Entries, mix: str | None, types: Mapping[str, str]) -> Entries:
    """The keys that say what types a file has."""
    changed: dict[str, MetadataValue] = {}
    kind = None if mix is None else file_type(mix)
    if kind is not None:
        changed[keys.GENERAL_FILE_TYPE] = MetadataValue.uint32(int(kind))
    if any(is_few_bits(one) for one in types.values()):
        changed[keys.GENERAL_QUANTIZATION_VERSION] = MetadataValue.uint32(keys.QUANTIZATION_VERSION)
    return replaced_entries(metadata, changed)


def _rope_factors(plan: MergePlan) -> Floats | None:
    """rope_freqs, which config.json says in other words."""
    for tensor in plan.tensors:
        if tensor.name == ROPE_FREQS:
            factors: Floats = np.empty(math.prod(tensor.shape), np.float32)
            plan.models[tensor.inputs[0].model].read(tensor.inputs[0].name, 0, factors[None])
            return factors
    return None

"""Whose file a YAML is: `entrenar train`, `quantize` and `merge` read different ones, and none should guess at the keys
of another's."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from entrenar_core.errors import ConfigError

_OF_TRAINING = ("data", "optimizer", "lora", "merge", "distill", "training", "input_features", "output_features")
_OF_QUANTIZING = {"run": ("memory", "threads"), "output": ("path", "report")}
"""Sections, and keys in them, that only a file of `entrenar quantize` has."""

_OF_MERGEKIT = ("merge_method", "base_model", "models", "slices", "modules", "tokenizer_source", "dtype", "out_dtype")


def refuse_training_files(content: Mapping[str, Any], name: str) -> None:
    """See that what a file says is no call of another command than `entrenar quantize`.

    Raises:
        ConfigError: it is; the hint names the command.
    """
    _refuse_merges(content, name)
    found = [key for key in _OF_TRAINING if key in content]
    if found and not _quantizes(content):
        raise ConfigError(
            f"this file describes a training run (it has {', '.join(found)}), and this command quantizes a file",
            where=name,
            hint=f"entrenar train {shlex.quote(name)}; or name the model: entrenar quantize MODEL -o OUT --type q4_k_m",
        )


def refuse_quantizing_files(content: Mapping[str, Any], name: str) -> None:
    """See that what a file says is no call of another command than `entrenar train`.

    Raises:
        ConfigError: it is; the hint names the command.
    """
    _refuse_merges(content, name)
    if _quantizes(content) and not any(key in content for key in _OF_TRAINING):
        raise ConfigError(
            "this file is for entrenar quantize: it names a file to write, and nothing to train on",
            where=name,
            hint=f"entrenar quantize {shlex.quote(name)}",
        )


def refuse_other_files_than_merges(content: Mapping[str, Any], name: str) -> None:
    """See that what a file says is a merge, ours or mergekit's.

    Raises:
        ConfigError: it is not; the hint names the command that it is for.
    """
    found = [key for key in ("model", *_OF_TRAINING) if key != "merge" and key in content]
    if not found or is_mergekit(content):
        return
    command = "quantize" if _quantizes(content) and not any(key in content for key in _OF_TRAINING) else "train"
    raise ConfigError(
        f"this file is for entrenar {command} (it has {', '.join(found)}), and this command merges models",
        where=name,
        hint=f"entrenar {command} {shlex.quote(name)}; the YAML of a merge has merge.method and merge.models",
    )


def is_mergekit(content: Mapping[str, Any]) -> bool:
    """Whether a file of a merge has mergekit's keys."""
    return "merge" not in content and any(key in content for key in _OF_MERGEKIT)


def _refuse_merges(content: Mapping[str, Any], name: str) -> None:
    section = content.get("merge")
    others = any(key in content for key in ("model", *_OF_TRAINING) if key != "merge")
    is_ours = isinstance(section, Mapping) and any(key in section for key in ("base", "models", "slices"))
    if not others and (is_ours or "merge_method" in content):
        raise ConfigError(
            "this file is for entrenar merge: it names models to join, and nothing else",
            where=name,
            hint=f"entrenar merge {shlex.quote(name)}",
        )


def _quantizes(content: Mapping[str, Any]) -> bool:
    sections = {name: content.get(name) for name in _OF_QUANTIZING}
    return "quantize" in content and any(
        isinstance(section, Mapping) and any(key in section for key in _OF_QUANTIZING[name])
        for name, section in sections.items()
    )

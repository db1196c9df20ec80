"""Whose file a YAML is: `entrenar train` and `entrenar quantize` read different ones, and neither should guess at the
keys of the other's."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from entrenar_core.errors import ConfigError

_OF_TRAINING = ("data", "optimizer", "lora", "merge", "distill", "training", "input_features", "output_features")
_OF_QUANTIZING = {"run": ("memory", "threads"), "output": ("path", "report")}
"""Sections, and keys in them, that only a file of `entrenar quantize` has."""


def refuse_training_files(content: Mapping[str, Any], name: str) -> None:
    """See that what a file says is not a training run.

    Raises:
        ConfigError: it is; the hint names the command.
    """
    found = [key for key in _OF_TRAINING if key in content]
    if found and not _quantizes(content):
        raise ConfigError(
            f"this file describes a training run (it has {', '.join(found)}), and this command quantizes a file",
            where=name,
            hint=f"entrenar train {shlex.quote(name)}; or name the model: entrenar quantize MODEL -o OUT --type q4_k_m",
        )


def refuse_quantizing_files(content: Mapping[str, Any], name: str) -> None:
    """See that what a file says is not a call of `entrenar quantize`.

    Raises:
        ConfigError: it is; the hint names the command.
    """
    if _quantizes(content) and not any(key in content for key in _OF_TRAINING):
        raise ConfigError(
            "this file is for entrenar quantize: it names a file to write, and nothing to train on",
            where=name,
            hint=f"entrenar quantize {shlex.quote(name)}",
        )


def _quantizes(content: Mapping[str, Any]) -> bool:
    sections = {name: content.get(name) for name in _OF_QUANTIZING}
    return "quantize" in content and any(
        isinstance(section, Mapping) and any(key in section for key in _OF_QUANTIZING[name])
        for name, section in sections.items()
    )

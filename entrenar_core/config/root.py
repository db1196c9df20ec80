"""The whole configuration, and the rules that join its sections."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from entrenar_core.config.base import Conflict, Section, given_keys, is_count, is_number
from entrenar_core.config.data import Data
from entrenar_core.config.distill import Distill
from entrenar_core.config.distill_conflicts import distill_conflicts, shapes_a_student
from entrenar_core.config.lora import Lora
from entrenar_core.config.merge import Merge
from entrenar_core.config.model import Model
from entrenar_core.config.optimizer import Optimizer
from entrenar_core.config.output import Output
from entrenar_core.config.quantize import Quantize, stage_conflicts
from entrenar_core.config.training import Training

MAY_BE_EMPTY = ("optimizer", "training", "output")
"""Sections that mean their defaults when nothing stands in them."""

ADD_LORA = "add lora: {rank: 16}"


class Config(Section):
    """One training run, from model to output."""

    version: Literal[1] = Field(default=1, description="version of this format")
    model: Model = Field(description="the model that is trained")
    data: Data = Field(description="what it is trained on")
    optimizer: Optimizer = Field(default_factory=Optimizer, description="the update rule and the learning rate")
    lora: Lora | None = Field(default=None, description="train a low-rank adapter; absent: train the whole model")
    quantize: Quantize | None = Field(default=None, description="hold or write weights in few bits; absent: no change")
    merge: Merge | None = Field(default=None, description="join the trained model with others over the base")
    distill: Distill | None = Field(default=None, description="learn from the predictions of one or several teachers")
    training: Training = Field(default_factory=Training, description="length, rhythm and place of the run")
    output: Output = Field(default_factory=Output, description="the files of a finished run")

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults_from_other_sections(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping):
            return raw
        filled = dict(raw)
        for section in MAY_BE_EMPTY:
            if filled.get(section, "") is None:
                del filled[section]
        if filled.get("model") is None and shapes_a_student(filled):
            filled["model"] = {}
        if isinstance(filled.get("lora"), (Lora, Mapping)):
            _fill_lora(filled)
        if isinstance(filled.get("quantize"), (Quantize, Mapping)):
            _default(filled, "quantize", "stage", "base" if filled.get("lora") is not None else "output")
        return filled

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from _model_conflicts(given)
        yield from _adapter_conflicts(given)
        yield from _quantize_conflicts(given)
        yield from _merge_conflicts(given)
        yield from _length_conflicts(given)
        yield from distill_conflicts(given)


def _model_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """What is trained must be said, in one of three ways."""
    model = given_keys(given.get("model"))
    is_known = "path" in model or "architecture" in model or shapes_a_student(given)
    if isinstance(given.get("model"), (Mapping, Section)) and not is_known:
        hint = "name a GGUF file, or describe a new model in model.architecture"
        yield Conflict("model.path", "required key is missing", hint)


def _fill_lora(raw: dict[str, Any]) -> None:
    _default(raw, "output", "adapter", "gguf")
    layers = given_keys(raw.get("model")).get("layers")
    if isinstance(layers, (list, tuple)) and layers and all(isinstance(name, str) for name in layers):
        _default(raw, "lora", "target_modules", layers)


def _length_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """What the data, the length of the run and the warm-up say to each other."""
    data, training = given_keys(given.get("data")), given_keys(given.get("training"))
    if "val" not in data and "val_fraction" not in data:
        for key in ("early_stopping", "eval_every"):
            if key in training:
                yield Conflict(
                    f"training.{key}",
                    "needs validation data, and there is none",
                    "set data.val or data.val_fraction",
                )
    if data.get("streaming") is True and "max_steps" not in training:
        yield Conflict(
            "data.streaming",
            "needs training.max_steps: the length of an epoch is not known before the data is read",
            "set training.max_steps",
        )
    warmup, steps = given_keys(given.get("optimizer")).get("warmup"), training.get("max_steps")
    if is_count(warmup) and is_count(steps) and steps < warmup:
        yield Conflict("optimizer.warmup", f"value {warmup} is longer than the run of {steps} steps")


def _quantize_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if "quantize" not in given:
        return
    section = given_keys(given["quantize"])
    stage = str(section.get("stage", "base" if "lora" in given else "output")).lower()
    if "stage" not in section:
        for conflict in stage_conflicts(section, stage):
            yield conflict._replace(key=f"quantize.{conflict.key}")
    if "lora" not in given and stage == "base":
        yield from _base_conflicts(given)
    if "lora" in given and "architecture" in given_keys(given.get("model")):
        yield Conflict("quantize", "needs the weights of model.path; random weights are trained in full", "remove it")
    if stage in ("qat", "output"):
        yield from _written_conflicts(given, stage)


def _base_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    """A base in few bits whose weights shall change."""
    if shapes_a_student(given):
        message = "base holds a frozen model, and distill.student makes a model and trains it in full"
        yield Conflict("quantize.stage", message, "set it to qat or output")
    else:
        yield Conflict("quantize.stage", "base needs a lora section: a base in few bits is frozen", ADD_LORA)


def _written_conflicts(given: Mapping[str, Any], stage: str) -> Iterator[Conflict]:
    """What a model that is written in few bits excludes."""
    output = given_keys(given.get("output"))
    if output.get("gguf") is False or ("lora" in given and output.get("merge_adapter") is False):
        yield Conflict("quantize.stage", f"{stage} needs a model to write", "set output.gguf: true")
    if output.get("type") not in (None, "auto"):
        yield Conflict("output.type", "the types of the written model are those of quantize", "remove it")
    if stage == "output" and "target_size" in given_keys(given["quantize"]):
        hint = "train without the quantize section, then run: entrenar quantize MODEL --target-size SIZE"
        yield Conflict("quantize.target_size", "types that fit a size are chosen by measuring a finished model", hint)
    if stage == "qat":
        yield from _qat_conflicts(given)


def _qat_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if "merge" in given:
        yield Conflict("merge", "would change the weights that were trained in few bits", "set quantize.stage: output")
    dropout = given_keys(given.get("lora")).get("dropout")
    if is_number(dropout) and dropout > 0:
        yield Conflict(
            "lora.dropout",
            "drops the adapter's input, and in stage qat the adapter has none: W + B·A is rounded as one matrix",
            "remove it",
        )
    warmup = given_keys(given_keys(given["quantize"]).get("qat")).get("warmup")
    steps = given_keys(given.get("training")).get("max_steps")
    if is_count(warmup) and is_count(steps) and warmup >= steps:
        yield Conflict(
            "quantize.qat.warmup", f"is as long as the run of {steps} steps: quantization would never start", "lower it"
        )


def _merge_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if "merge" not in given or shapes_a_student(given):
        return
    output = given_keys(given.get("output"))
    if "path" not in given_keys(given.get("model")):
        yield Conflict("merge", "needs a base model in model.path: it joins what differs from it", "remove it")
    if output.get("gguf") is False and "lora" in given:
        yield Conflict("output.gguf", "is false, and merge needs a model to write", "set it to true, or remove merge")
    elif "lora" in given and output.get("merge_adapter") is False:
        yield Conflict(
            "output.merge_adapter", "is false, and merge needs a model to write", "set it to true, or remove merge"
        )


def _default(raw: dict[str, Any], section: str, key: str, value: Any) -> None:
    """Set one key of a raw section if it is not set; what is wrong with the section is reported elsewhere."""
    content = raw.get(section, {})
    if isinstance(content, Mapping) and content.get(key) is None:
        raw[section] = {**content, key: value}


def _adapter_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    output = given_keys(given.get("output"))
    writes_model = output.get("gguf") is not False
    if "lora" in given:
        writes_model = writes_model and output.get("merge_adapter") is not False
        if not writes_model and output.get("adapter") == "none":
            yield Conflict("output.adapter", "nothing would be written: no model and no adapter", "set adapter: gguf")
        return
    if output.get("adapter") not in (None, "none"):
        yield Conflict("output.adapter", "there is no adapter without a lora section", ADD_LORA)
    if not writes_model:
        yield Conflict("output.gguf", "nothing would be written: no model, and no lora adapter", "set gguf: true")
    if "layers" in given_keys(given.get("model")) and not shapes_a_student(given):
        yield Conflict(
            "model.layers", "names LoRA targets, but there is no lora section", "add lora: {rank: 16}, or remove layers"
        )

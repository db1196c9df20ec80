"""Quantization-aware training of a run: which weights are rounded, as what, and from which step on.

The types are those of the plan of the written model, so a weight is rounded in training if and only if the export will
round it. What is left out of `quantize.qat.layers` is written without any rounding of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import replace

from entrenar_core.config.quantize import Qat
from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, QuantizationStarted, Reporter
from entrenar_core.gguf.names import MODULES, OUTPUT, TOKEN_EMBD
from entrenar_core.quant.fake import FakeQuantization
from entrenar_core.quant.mixes import quantizes
from entrenar_core.stages.output_types import OutputTypes, Sources
from entrenar_core.train.callbacks import Callback
from entrenar_core.train.loop import Trainer

EMBEDDINGS = {"embed": TOKEN_EMBD, "head": OUTPUT}
"""Names of `quantize.qat.layers` for what lies outside the blocks; the head is the embedding where they are tied."""

_OTHER_NAMES = {"embed_tokens": "embed", "token_embd": "embed", "lm_head": "head", "output": "head"}

EXACT_TYPE = "F32"


def qat_section(config: Config) -> Qat | None:
    """How weights are rounded while training; None where they are not."""
    quantize = config.quantize
    if quantize is None or quantize.stage != "qat":
        return None
    return quantize.qat or Qat()


def described_output(config: Config) -> str:
    """In which types a run writes, and maybe trains, its weights, as the end of a sentence; empty for their own."""
    section, quantize = qat_section(config), config.quantize
    if quantize is None:
        return ""
    if quantize.stage == "base":
        return "; written in the types of the base file" if keeps_own_types(config) else ""
    if section is None:
        return f"; written as {quantize.mix}"
    what = "all matrices" if section.layers == "all" else ", ".join(section.layers)
    gradient = section.gradient.replace("_", " ")
    start = f" after {section.warmup} steps in full precision" if section.warmup else ""
    return f"; with {what} quantized to {quantize.mix} while training{start}, gradients {gradient}"


def keeps_own_types(config: Config) -> bool:
    """Whether a model is written that is not of few bits although its base is held so."""
    output = config.output
    return output.gguf and output.merge_adapter and output.type == "auto"


def check_layers(config: Config) -> None:
    """Find wrong names before anything is read.

    Raises:
        ConfigError: a name that is no module.
    """
    section = qat_section(config)
    if section is None or section.layers == "all":
        return
    for name in section.layers:
        _module(name)


def limited_to_layers(plan: OutputTypes, sources: Sources, changed: Collection[str], config: Config) -> OutputTypes:
    """The plan with the types of what is not rounded while training.

    A matrix outside of `quantize.qat.layers` keeps its own type where training does not touch it. Whatever training
    changes without rounding it, vectors too, is written as float32: the file is then exactly the trained model.
    """
    section = qat_section(config)
    if section is None:
        return plan
    types = dict(plan.types)
    for name, (shape, present) in sources.items():
        if not (quantizes(name, shape) and is_chosen(name, section, tied=OUTPUT not in sources)):
            types[name] = EXACT_TYPE if name in changed else present
    return replace(plan, types=types)


def is_chosen(name: str, section: Qat, *, tied: bool) -> bool:
    """Whether `quantize.qat.layers` names this matrix."""
    if section.layers == "all":
        return True
    modules = {_module(layer) for layer in section.layers}
    if name == TOKEN_EMBD:
        return "embed" in modules or (tied and "head" in modules)
    return "head" in modules if name == OUTPUT else name.split(".")[-2] in modules


def rounded_names(plan: OutputTypes, sources: Sources, changed: Collection[str], config: Config) -> list[str]:
    """The matrices that are rounded while training: those whose numbers the export will change.

    An untouched matrix that has its type already is copied.
    """
    section, tied = qat_section(config), OUTPUT not in sources
    if section is None:
        return []
    return [
        name
        for name, (shape, present) in sources.items()
        if quantizes(name, shape)
        and is_chosen(name, section, tied=tied)
        and (name in changed or plan.types[name] != present)
        and plan.types[name] != EXACT_TYPE
    ]


def check_warmup(config: Config, total_steps: int) -> None:
    """Refuse a run that would end before its weights are quantized.

    Raises:
        ConfigError: the warm-up is as long as the run.
    """
    section = qat_section(config)
    if section is not None and section.warmup >= total_steps:
        raise ConfigError(
            f"{section.warmup} steps are as long as the run of {total_steps}: quantization would never start",
            where="quantize.qat.warmup",
            hint="make it shorter, or train longer",
        )


class QuantizationSwitch(Callback):
    """Rounds weights from the step on at which the warm-up is over; that depends on the step alone, so a run that is
    resumed does what the first would have done.

    Args:
        quantization: of the model.
        warmup: optimizer steps before it.
        first_step: steps that were done when the run was resumed; 0: it is a new one.
        reporter: hears when it starts, and so do the metrics.
    """

    def __init__(self, quantization: FakeQuantization, warmup: int, first_step: int, reporter: Reporter) -> None:
        self.quantization = quantization
        self.warmup = warmup
        self.has_begun = first_step >= max(warmup, 1)
        self.reporter = reporter

    def on_turn(self, trainer: Trainer) -> None:
        step, switch = trainer.state.step, self.quantization.switch
        if switch.is_on or step < self.warmup:
            return
        switch.is_on = True
        if self.has_begun:
            message = f"weights go on being quantized, as they have been since step {self.warmup}"
            self.reporter.emit(Notice("info", message))
            return
        event = QuantizationStarted(step, self.quantization.matrices)
        if trainer.metrics is not None:
            trainer.metrics.append(event)
        self.reporter.emit(event)


def _module(name: str) -> str:
    """``q_proj`` to ``attn_q``; ``embed`` and ``head`` by all their names.

    Raises:
        ConfigError: no such module; the message has the names that there are.
    """
    known: dict[str, str] = {**MODULES, **{one: one for one in (*MODULES.values(), *EMBEDDINGS)}, **_OTHER_NAMES}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ConfigError(
        f"unknown module {name!r}",
        where="quantize.qat.layers",
        hint=f"{guess}modules are {', '.join((*MODULES, *EMBEDDINGS))}",
    )

"""Which GGML type each tensor of the result is written in, as `output.type` or the `quantize` section says.

auto keeps every tensor's own type. A mix is that of `quant.mixes`. A tensor that has few bits already and that training
did not touch would lose quality twice if it were encoded again: `quantize` leaves it as it is, unless
`allow_requantize` is set; `output.type` asks for all of the model, so there it is encoded again, and that is said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from entrenar_core.codecs.ggml_types import is_few_bits
from entrenar_core.codecs.registry import ENCODABLE
from entrenar_core.config.root import Config
from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.gguf.keys import FileType
from entrenar_core.quant.mixes import ChosenType, MixRequest, ModelFacts, choose_types, file_type, quantizes
from entrenar_core.stages.mix_request import mix_request

Sources = Mapping[str, tuple[tuple[int, ...], str]]
"""Shape in numpy order and type of each tensor before training, by name, in file order."""

NEW_TYPE = "F16"
"""What the matrices of a model without a base file become."""

READ_ONLY_BECOMES = "Q8_0"
"""What a changed matrix of a type that cannot be encoded becomes. Rows of every block type divide into its blocks."""


@dataclass(frozen=True)
class OutputTypes:
    """The plan of types.

    Attributes:
        types: of every tensor, by name.
        file_type: for ``general.file_type``; None where that follows from the types.
        not_encodable: changed tensors whose own type nobody encodes, by that type.
        requantized: untouched tensors of few bits that are encoded again, by their type.
        left_alone: untouched tensors of few bits that keep their type although the mix has another one.
        fell_back: matrices whose rows do not fit the blocks of the mix, by the type that they have instead.
    """

    types: dict[str, str]
    file_type: FileType | None = None
    not_encodable: Counter[str] = field(default_factory=Counter)
    requantized: Counter[str] = field(default_factory=Counter)
    left_alone: Counter[str] = field(default_factory=Counter)
    fell_back: Counter[str] = field(default_factory=Counter)


def plan_output_types(sources: Sources, changed: Collection[str], config: Config, facts: ModelFacts) -> OutputTypes:
    """The types of the model that a run writes.

    Args:
        sources: see `Sources`; `NEW_TYPE` or F32 for the tensors of a new model.
        changed: the tensors that come out different.
        config: of the run.
        facts: of the model, which some mixes look at.

    Raises:
        ConfigError: a pattern that finds no tensor, or a type that cannot be written.
    """
    quantize = config.quantize
    if quantize is not None and quantize.stage in ("qat", "output"):
        chosen = choose_types(sources, mix_request(quantize, facts))
        return _mixed(sources, changed, chosen, quantize.mix, allow_requantize=quantize.allow_requantize)
    if config.output.type == "auto":
        return _own_types(sources, changed)
    chosen = choose_types(sources, MixRequest(config.output.type, model=facts))
    return _mixed(sources, changed, chosen, config.output.type, allow_requantize=True)


def _own_types(sources: Sources, changed: Collection[str]) -> OutputTypes:
    plan = OutputTypes({})
    for name, (shape, present) in sources.items():
        plan.types[name] = _writable(name, shape, present, changed, plan.not_encodable)
    return plan


def _writable(name: str, shape: tuple[int, ...], present: str, changed: Collection[str], lost: Counter[str]) -> str:
    """The present type, if the tensor stays as it is or can be encoded so."""
    if name not in changed or (present in ENCODABLE and (len(shape) > 1 or not is_few_bits(present))):
        return present
    if len(shape) <= 1:
        return "F32"
    lost[present] += 1
    return READ_ONLY_BECOMES


def _mixed(
    sources: Sources, changed: Collection[str], chosen: Mapping[str, ChosenType], mix: str, *, allow_requantize: bool
) -> OutputTypes:
    plan = OutputTypes({}, file_type(mix))
    for name, (shape, present) in sources.items():
        if not quantizes(name, shape):
            plan.types[name] = _writable(name, shape, present, changed, plan.not_encodable)
            continue
        wanted = chosen[name]
        is_second_time = name not in changed and is_few_bits(present) and present != wanted.type_name
        if is_second_time and not allow_requantize and is_few_bits(wanted.type_name):
            plan.types[name] = present
            plan.left_alone[present] += 1
            continue
        _require_encodable(name, wanted.type_name, present, name in changed)
        plan.requantized[present] += is_second_time and is_few_bits(wanted.type_name)
        plan.fell_back[wanted.type_name] += wanted.fell_back
        plan.types[name] = wanted.type_name
    return plan


def _require_encodable(name: str, type_name: str, present: str, is_changed: bool) -> None:
    """Found before training: what cannot be written must not be learned first."""
    if type_name not in ENCODABLE and (is_changed or type_name != present):
        raise ConfigError(
            f"{name} would be {type_name}, which can be read but not written",
            hint=f"types that can be written: {', '.join(sorted(ENCODABLE))}",
        )


def say_what_types_lose(plan: OutputTypes, reporter: Reporter) -> None:
    """Report where the types are not those that one would expect."""
    if names := counted(plan.not_encodable):
        message = f"changed tensors whose type can be read but not written become {READ_ONLY_BECOMES}: {names}"
        reporter.emit(Notice("warning", message))
    if names := counted(plan.requantized):
        message = f"tensors of few bits that training did not touch are quantized again, which loses quality: {names}"
        reporter.emit(Notice("warning", message))
    if names := counted(plan.left_alone):
        message = f"tensors that have few bits already and were not trained stay as they are: {names}"
        reporter.emit(Notice("info", f"{message}; quantize.allow_requantize: true would encode them again"))
    if message := fall_backs(plan):
        reporter.emit(Notice("info", message))


def fall_backs(plan: OutputTypes) -> str:
    """The types that matrices have instead of those of the mix; empty where all fit."""
    names = counted(plan.fell_back)
    return f"matrices whose rows do not divide into the blocks of the mix get another type: {names}" if names else ""


def counted(counts: Counter[str]) -> str:
    """``3 of Q4_0, 1 of Q6_K``, without types that none has."""
    return ", ".join(f"{count} of {name}" for name, count in sorted(counts.items()) if count)

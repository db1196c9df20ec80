"""The `quantize` section: number types of few bits, and the stage of a run at which they come in.

This release holds the frozen base of a LoRA run in Q4_0 or Q8_0 (QLoRA). The other keys of the section are checked,
and refused with what to do instead.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from entrenar_core.config.base import AnyCase, Available, Conflict, Section
from entrenar_core.config.foreign_keys import NOT_YET

TypeName = Literal[
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m", "q5_k_s",
    "q5_k_m", "q6_k", "iq4_nl", "iq4_xs",
]  # fmt: skip
TYPE_OF_BITS: Mapping[int, str] = {4: "q4_0", 8: "q8_0"}
"""The type that `bits` stands for: symmetric blocks of 32 with one scale each."""

AVAILABLE_TYPES = tuple(TYPE_OF_BITS.values())
_INSTEAD = "set type to q4_0 or q8_0"


class Calibration(Section):
    """What the ranges of quantized values are chosen by."""

    data: str | None = Field(default=None, min_length=1, description="texts to calibrate on; default: data.train")
    method: Annotated[Literal["minmax", "percentile", "imatrix"], AnyCase] = Field(
        default="minmax", description="how a range is chosen: extremes, a percentile, or an importance matrix"
    )


class Quantize(Section):
    """Weights in few bits."""

    bits: Literal[4, 8] | None = Field(default=None, description="4 stands for type q4_0, 8 for q8_0")
    type: Annotated[TypeName | None, AnyCase, Available(AVAILABLE_TYPES)] = Field(
        default=None, description="a GGUF type, instead of bits"
    )
    symmetric: bool = Field(default=True, description="one scale and no offset for each group of weights")
    granularity: Annotated[Literal["block", "per_channel", "per_tensor"], AnyCase, Available(("block",))] = Field(
        default="block", description="how many weights share a scale"
    )
    per_channel: bool | None = Field(default=None, description="true: short for granularity: per_channel")
    stage: Annotated[Literal["base", "qat", "output"] | None, AnyCase, Available(("base",))] = Field(
        default=None,
        description="base: hold the frozen base in few bits (QLoRA); qat: quantize while training; "
        "output: quantize what is written; default: base with lora, else output",
    )
    calibration: Calibration | None = Field(default=None, description="what the ranges are chosen by")

    @property
    def ggml_type(self) -> str:
        """The GGML name of the type: ``Q4_0`` or ``Q8_0``."""
        return (self.type or TYPE_OF_BITS[self.bits or 4]).upper()

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        if "bits" in given and "type" in given:
            yield Conflict("type", "cannot go together with quantize.bits", "keep one of them")
        elif "bits" not in given and "type" not in given:
            yield Conflict("bits", "required key is missing", "set bits to 4 (Q4_0) or 8 (Q8_0)")
        if given.get("per_channel") is True and "granularity" in given:
            yield Conflict("per_channel", "says the same as quantize.granularity", "keep one of them")
        yield from cls._not_yet(given)

    @classmethod
    def _not_yet(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        kind, stage = (_word(given.get(key)) for key in ("type", "stage"))
        if kind in get_args(TypeName) and kind not in AVAILABLE_TYPES:
            yield Conflict("type", f"value {given['type']} {NOT_YET}", _INSTEAD)
        if given.get("symmetric") is False:
            yield Conflict("symmetric", f"asymmetric quantization {NOT_YET}", "remove it")
        if _word(given.get("granularity")) in ("per_channel", "per_tensor"):
            yield Conflict("granularity", f"value {given['granularity']} {NOT_YET}", "set it to block")
        if given.get("per_channel") is True:
            yield Conflict("per_channel", f"one scale for a channel {NOT_YET}", "remove it")
        if stage in ("qat", "output"):
            yield Conflict("stage", f"value {given['stage']} {NOT_YET}", "set it to base, with a lora section")
        if "calibration" in given:
            yield Conflict("calibration", f"calibration {NOT_YET}", "remove it; q4_0 and q8_0 need none")


def _word(value: object) -> object:
    return value.lower() if isinstance(value, str) else value

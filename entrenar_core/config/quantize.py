"""The `quantize` section: number types of few bits, and the stage of a run at which they come in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Conflict, NamesOrAll, Section, UserPath, names_or_all, not_allowed
from entrenar_core.config.column_conflicts import column_conflicts
from entrenar_core.config.column_names import ColumnNames
from entrenar_core.config.roles import TaskName
from entrenar_core.config.sizes import Size

MixName = Literal[
    "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q2_k_s", "q3_k_s", "q3_k_m", "q3_k_l", "q4_k_s", "q4_k_m",
    "q5_k_s", "q5_k_m", "q6_k", "iq4_nl", "iq4_xs", "f16", "bf16", "f32",
]  # fmt: skip
"""What a whole model is written as; the k-mixes give sensitive tensors more bits."""

TensorType = Literal[
    "f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k", "iq4_nl",
    "iq4_xs",
]  # fmt: skip
"""What a single tensor can be written as."""

MIX_ALIASES: Mapping[str, str] = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}
"""Short names that llama-quantize takes too."""

FLOATS = ("f16", "bf16", "f32")
SHARED_SCALES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0")
"""Types whose blocks hold one scale each, which a row or a tensor can share."""

WITH_OFFSET = ("q4_1", "q5_1", "q2_k", "q2_k_s", "q4_k_s", "q4_k_m", "q5_k_s", "q5_k_m")
"""Mixes whose (main) type stores an offset beside each scale: asymmetric quantization."""

_TYPE_OF_BITS: Mapping[tuple[int, bool], str] = {(4, True): "q4_0", (4, False): "q4_1", (8, True): "q8_0"}


def named_mix(value: Any) -> Any:
    """A mix by its full name in lower case; what is none is left alone."""
    word = value.lower() if isinstance(value, str) else value
    return MIX_ALIASES.get(word, word) if isinstance(word, str) else word


def _type_by_pattern(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not value or not all(isinstance(key, str) and key for key in value):
        raise not_allowed("patterns of tensor names with their types, such as {attn_v: q6_k}")
    types = {key: _word(one) for key, one in value.items()}
    for pattern, one in types.items():
        if one not in get_args(TensorType):
            raise not_allowed(
                f"a type for each pattern, and that of {pattern} is none of {', '.join(get_args(TensorType))}"
            )
    return types


class Calibration(Section):
    """What the weights of the errors, or the ranges of the values, are chosen by."""

    data: Annotated[str | None, UserPath] = Field(
        default=None, min_length=1, description="texts to calibrate on (any data file); default: data.train"
    )
    imatrix: Annotated[str | None, UserPath] = Field(
        default=None,
        min_length=1,
        description="an importance matrix (GGUF, as llama-imatrix has it), instead of data",
    )
    method: Annotated[Literal["minmax", "percentile", "moving_average", "imatrix"], AnyCase] = Field(
        default="imatrix",
        description="the statistic of each input channel that its error is weighed by: mean square (imatrix), largest "
        "magnitude, a percentile of it, or its moving average over batches",
    )
    percentile: float = Field(default=99.9, gt=50, le=100, description="percentile: share of magnitudes in the range")
    decay: float = Field(default=0.9, ge=0, lt=1, description="moving_average: weight of the past at each batch")
    rows: int = Field(default=128, ge=1, description="most rows of tokens that are read")
    seq_len: int = Field(default=512, ge=2, description="tokens of a row")
    task: Annotated[TaskName | None, AnyCase] = Field(
        default=None, description="what calibration.data is for; default: inferred from the columns"
    )
    columns: ColumnNames | None = Field(
        default=None, description="columns of calibration.data by role, such as {text: review}; default: inferred"
    )
    chat_template: str | None = Field(
        default=None,
        min_length=1,
        description="how chats of calibration.data are written, as data.chat_template has it; default: as in the run, "
        "or the model's own",
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from _read_conflicts(given, cls.model_fields)
        yield from column_conflicts(given)
        method = _word(given.get("method"))
        if "percentile" in given and method != "percentile":
            yield Conflict("percentile", "has no meaning for this method", "set method: percentile, or remove it")
        if "decay" in given and method != "moving_average":
            yield Conflict("decay", "has no meaning for this method", "set method: moving_average, or remove it")


def _read_conflicts(given: Mapping[str, Any], keys: Iterable[str]) -> Iterator[Conflict]:
    """An importance is read or measured; only what is measured on its own data is described."""
    message = "cannot go together with quantize.calibration.imatrix, which is measured already"
    if "imatrix" in given:
        for key in keys:
            if key != "imatrix" and key in given:
                yield Conflict(key, message, "remove one")
    elif "data" not in given:
        for key in [key for key in ("task", "columns", "chat_template") if key in given]:
            yield Conflict(key, "is about calibration.data, and there are none", f"set data.{key} for the run")


class Qat(Section):
    """Quantization-aware training: the forward pass uses the weights that will be exported."""

    layers: Annotated[
        tuple[str, ...] | Literal["all"],
        BeforeValidator(names_or_all, json_schema_input_type=NamesOrAll),
    ] = Field(default="all", description="modules that are quantized while training (q_proj, embed, head ...), or all")
    gradient: Annotated[Literal["straight_through", "clipped"], AnyCase] = Field(
        default="straight_through",
        description="gradient of rounding: that of the identity, or none for weights beyond the range of their block",
    )
    warmup: int = Field(default=0, ge=0, description="optimizer steps in full precision before quantization starts")


class Quantize(Section):
    """Weights in few bits."""

    bits: Literal[4, 8] | None = Field(
        default=None, description="4 stands for type q4_0 (q4_1 if not symmetric), 8 for q8_0"
    )
    type: Annotated[MixName | None, BeforeValidator(named_mix)] = Field(
        default=None, description="a type or mix of types by the names of llama-quantize, instead of bits"
    )
    target_size: Size | None = Field(
        default=None,
        description="largest size of the file, instead of a type: bytes, or 700MB, 1.5GiB; each tensor gets the type "
        "that measured errors ask for",
    )
    symmetric: bool | None = Field(
        default=None, description="one scale and no offset for each group of weights; default: as the type is"
    )
    granularity: Annotated[Literal["block", "per_channel", "per_tensor"], AnyCase] = Field(
        default="block", description="how many weights share a scale: a block, a row, or the whole tensor"
    )
    per_channel: bool | None = Field(default=None, description="true: short for granularity: per_channel")
    pure: bool = Field(default=False, description="the same type for all matrices, no mix")
    output_type: Annotated[TensorType | None, AnyCase] = Field(default=None, description="type of the output matrix")
    embedding_type: Annotated[TensorType | None, AnyCase] = Field(
        default=None, description="type of the token embedding"
    )
    tensor_types: Annotated[dict[str, TensorType] | None, BeforeValidator(_type_by_pattern)] = Field(
        default=None, description="types of the tensors whose names a regular expression finds; the first match counts"
    )
    allow_requantize: bool = Field(
        default=False, description="quantize tensors again that have few bits already; this loses quality"
    )
    stage: Annotated[Literal["base", "qat", "output"] | None, AnyCase] = Field(
        default=None,
        description="base: hold the frozen base in few bits (QLoRA); qat: quantize while training; "
        "output: quantize what is written; default: base with lora, else output",
    )
    calibration: Calibration | None = Field(default=None, description="what the errors are weighed by")
    qat: Qat | None = Field(default=None, description="how to train with quantized weights; only with stage: qat")

    @property
    def mix(self) -> str:
        """The name of the type or mix, in lower case; empty when `target_size` chooses types."""
        if self.type is not None:
            return self.type
        return "" if self.bits is None else _TYPE_OF_BITS[self.bits, self.symmetric is not False]

    @property
    def scale_group(self) -> Literal["block", "per_channel", "per_tensor"]:
        """What shares a scale, however it was written."""
        return "per_channel" if self.per_channel else self.granularity

    @property
    def range_percentile(self) -> float | None:
        """Share of the weights that a shared range has, in percent; None: all, unless calibration is by percentiles."""
        known = self.calibration
        return known.percentile if known is not None and known.method == "percentile" else None

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        yield from _one_type(given)
        yield from _granularity_conflicts(given)
        yield from _offset_conflicts(given)
        if "stage" in given:
            yield from stage_conflicts(given, str(_word(given["stage"])))


def _one_type(given: Mapping[str, Any]) -> Iterator[Conflict]:
    chosen = [key for key in ("bits", "type", "target_size") if key in given]
    if not chosen:
        yield Conflict("bits", "required key is missing", "set bits to 4 (Q4_0) or 8 (Q8_0), or name a type")
    for key in chosen[1:]:
        yield Conflict(key, f"cannot go together with quantize.{chosen[0]}", "keep one of them")
    if "target_size" in given and given.get("pure") is True:
        yield Conflict("pure", "gives all matrices one type, and target_size chooses types", "keep one of them")


def _granularity_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if given.get("per_channel") is True and "granularity" in given:
        yield Conflict("per_channel", "says the same as quantize.granularity", "keep one of them")
    shared = _word(given.get("granularity")) in ("per_channel", "per_tensor")
    key = "granularity" if shared else "per_channel"
    mix = named_mix(given.get("type"))
    if not shared and given.get("per_channel") is not True:
        return
    if "target_size" in given:
        yield Conflict(key, "needs one type, and target_size chooses among several", "set bits or type")
    elif mix in get_args(MixName) and mix not in SHARED_SCALES:
        what = "stores no scales" if mix in FLOATS else "has scales of its own inside each block"
        yield Conflict(key, f"{mix} {what}; only {', '.join(SHARED_SCALES)} can share one", "set granularity: block")


def _offset_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    symmetric, mix = given.get("symmetric"), named_mix(given.get("type"))
    if symmetric is False and given.get("bits") == 8:
        yield Conflict("symmetric", "GGUF has no 8-bit type with an offset", "remove it: q8_0 is symmetric")
    if symmetric is False and "target_size" in given:
        yield Conflict("symmetric", "depends on the types that target_size chooses", "remove it")
    if mix in get_args(MixName) and isinstance(symmetric, bool):
        yield from _offset_of_type(mix, symmetric)


def _offset_of_type(mix: object, symmetric: bool) -> Iterator[Conflict]:
    if symmetric and mix in WITH_OFFSET:
        yield Conflict("symmetric", f"{mix} stores an offset beside each scale", "remove it, or set type: q4_0")
    elif not symmetric and mix not in WITH_OFFSET:
        yield Conflict("symmetric", f"{mix} stores no offset", "remove it, or set type: q4_1")


def stage_conflicts(given: Mapping[str, Any], stage: str) -> Iterator[Conflict]:
    """What cannot go together with a stage, whether it was written or is the default."""
    if "qat" in given and stage != "qat":
        yield Conflict("qat", f"has no meaning in stage {stage}", "set stage: qat, or remove it")
    if "target_size" in given and stage != "output":
        yield Conflict("target_size", f"measures a finished model; stage {stage} needs a type", "set bits or type")
    if stage == "base":
        for key in ("granularity", "per_channel", "calibration"):
            if given.get(key) not in (None, False, "block"):
                hint = "remove it, or quantize the file first: entrenar quantize"
                yield Conflict(key, "a base is packed while it is loaded, in blocks of its own", hint)
    if stage in ("base", "qat") and named_mix(given.get("type")) in FLOATS:
        yield Conflict("type", f"{given['type']} is no type of few bits", "set it to q4_0, q8_0 or q4_k_m")


def _word(value: object) -> object:
    return value.lower() if isinstance(value, str) else value

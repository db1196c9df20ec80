"""Which GGML type each tensor of a model is written in: the mixes of llama-quantize, and what overrides them.

A mix has a main type and gives more bits to what the answers depend on most: the output matrix, the value projections
and some of the down projections (the rules of llama.cpp's `llama-quant.cpp`). A row that does not divide into blocks
falls back to a type with smaller ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import ConfigError
from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.names import OUTPUT, TOKEN_EMBD

MAIN_TYPE: Mapping[str, str] = {
    "q2_k": "Q2_K", "q2_k_s": "Q2_K",
    "q3_k_s": "Q3_K", "q3_k_m": "Q3_K", "q3_k_l": "Q3_K",
    "q4_k_s": "Q4_K", "q4_k_m": "Q4_K",
    "q5_k_s": "Q5_K", "q5_k_m": "Q5_K",
    **{name: name.upper() for name in (
        "q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "q6_k", "iq4_nl", "iq4_xs", "f16", "bf16", "f32",
    )},
}  # fmt: skip
"""The type that most matrices of a mix have."""

FALLBACK: Mapping[str, str] = {
    "Q2_K": "Q4_0", "Q3_K": "Q4_0", "Q4_K": "Q5_0", "Q5_K": "Q5_1", "Q6_K": "Q8_0", "IQ4_XS": "IQ4_NL",
}  # fmt: skip
"""The type of blocks of 32 for rows that are no multiple of 256."""

LAST_FALLBACK = "F16"

_KEPT = re.compile(
    r"_norm\.weight|ffn_gate_inp\.weight|position_embd|token_types|ssm_conv1d|shortconv\.conv|time_mix_|attn_rel_b|altup"
    r"|laurel|per_layer_model_proj"
)
"""Small or sensitive tensors that are no matrices of products; llama-quantize leaves them alone too."""

_LAYER = re.compile(r"blk\.(\d+)\.")
_VALUE_LIKE = ("attn_v", "attn_qkv", "attn_kv_b")


@dataclass(frozen=True)
class ModelFacts:
    """What the mixes look at besides the tensors. Heads are those of the first layer; 0: not known."""

    architecture: str = ""
    layers: int = 0
    heads: int = 0
    kv_heads: int = 0
    experts: int = 0

    @property
    def query_groups(self) -> int:
        """Query heads for each key/value head."""
        return self.heads // self.kv_heads if self.kv_heads else 0


@dataclass(frozen=True)
class MixRequest:
    """What is asked for, as the `quantize` section has it.

    mix: see `MAIN_TYPE`. types by pattern: (regular expression, GGML type), the first match counts. has_importance:
    an importance matrix is there, which changes a few choices. query_groups: query heads for each key/value head.
    """

    mix: str
    pure: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    has_importance: bool = False
    query_groups: int = 1
    model: ModelFacts = ModelFacts()


@dataclass(frozen=True)
class ChosenType:
    """The type of one tensor; `wanted` is another one if its rows do not fit that."""

    type_name: str
    wanted: str = field(default="")

    @property
    def fell_back(self) -> bool:
        return self.wanted not in ("", self.type_name)


def quantizes(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is a matrix that a mix changes; the others keep the type they have."""
    return len(shape) >= 2 and name.endswith("weight") and _KEPT.search(name) is None


def choose_types(tensors: Mapping[str, tuple[tuple[int, ...], str]], request: MixRequest) -> dict[str, ChosenType]:
    """The type of every tensor.

    Args:
        tensors: shape in numpy order and present type, by name, in file order.
        request: see `MixRequest`.

    Raises:
        ConfigError: an unknown mix, or a pattern that is no regular expression or finds no tensor.
    """
    if request.mix not in MAIN_TYPE:
        raise ConfigError(f"unknown type {request.mix!r}", hint=f"known types: {', '.join(MAIN_TYPE)}")
    patterns = _compiled(request, tensors)
    places = _Places.of(tensors)
    chosen: dict[str, ChosenType] = {}
    for name, (shape, present) in tensors.items():
        if not quantizes(name, shape):
            chosen[name] = ChosenType(present)
            continue
        chosen[name] = fitting(_wanted(name, request, patterns, places), shape[-1])
    return chosen


def fitting(type_name: str, row: int) -> ChosenType:
    """The type, or the one that it falls back to for rows of `row` values."""
    for candidate in (type_name, FALLBACK.get(type_name)):
        if candidate is not None and row % TYPE_BY_NAME[candidate].block_size == 0:
            return ChosenType(candidate, type_name)
    return ChosenType(LAST_FALLBACK, type_name)


def file_type(mix: str) -> FileType | None:
    """The value of ``general.file_type`` for a mix."""
    return FileType.__members__.get(mix.upper())


@dataclass(frozen=True)
class _Places:
    """How many layers have value and down projections, and whether the output matrix is the embedding."""

    value_layers: int
    down_layers: int
    tied: bool

    @classmethod
    def of(cls, tensors: Mapping[str, object]) -> _Places:
        modules = [_module(name) for name in tensors]
        values = sum(module in _VALUE_LIKE for module in modules)
        return cls(values, sum("ffn_down" in module for module in modules), OUTPUT not in tensors)


def _compiled(
    request: MixRequest, tensors: Mapping[str, tuple[tuple[int, ...], str]]
) -> list[tuple[re.Pattern[str], str]]:
    found, where = [], "quantize.tensor_types"
    for pattern, type_name in request.tensor_types:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"{pattern!r} is no regular expression: {error}", where="quantize.tensor_types"
            ) from error
        if not any(compiled.search(name) for name, (shape, _) in tensors.items() if quantizes(name, shape)):
            raise ConfigError(
                f"{pattern!r} finds no matrix of the model",
                where=where,
                hint="names are such as blk.0.attn_v.weight",
            )
        found.append((compiled, type_name.upper()))
    return found


def _wanted(name: str, request: MixRequest, patterns: list[tuple[re.Pattern[str], str]], places: _Places) -> str:
    """The type that is asked for, before it is known to fit."""
    is_output = name == OUTPUT or (places.tied and name == TOKEN_EMBD)
    stated = _stated(name, is_output, request) or next(
        (kind for pattern, kind in patterns if pattern.search(name)), None
    )
    main = MAIN_TYPE[request.mix]
    if stated is not None or request.pure or TYPE_BY_NAME[main].block_size == 1:
        return stated or main
    if is_output:
        return main if main == "Q8_0" else "Q6_K"
    return _mixed(name, request, places) or main


def _stated(name: str, is_output: bool, request: MixRequest) -> str | None:
    """The type that was asked for by the role of the tensor."""
    stated = request.embedding_type if name == TOKEN_EMBD else None
    if stated is None and is_output:
        stated = request.output_type
    return None if stated is None else stated.upper()


def _mixed(name: str, request: MixRequest, places: _Places) -> str | None:
    """What the mix gives a tensor instead of its main type; None: the main type."""
    module, found = _module(name), _LAYER.match(name)
    layer = int(found[1]) if found else 0
    if module in _VALUE_LIKE:
        rule = _VALUE_RULES.get(request.mix)
        return rule(_Layer(layer, places.value_layers, request)) if rule else None
    if "ffn_down" in module:
        rule = _DOWN_RULES.get(request.mix)
        return rule(_Layer(layer, places.down_layers, request)) if rule else None
    return _OUTPUT_PROJECTION.get(request.mix) if module == "attn_output" else None


@dataclass(frozen=True)
class _Layer:
    """One of `count` layers."""

    index: int
    count: int
    request: MixRequest

    @property
    def first_eighth(self) -> bool:
        return self.index < self.count // 8

    @property
    def sensitive(self) -> bool:
        """In the first or last eighth, or every third one between."""
        eighth = self.count // 8
        return self.first_eighth or self.index >= 7 * self.count // 8 or (self.index - eighth) % 3 == 2

    @property
    def grouped(self) -> bool:
        """At least four query heads share a value head, so that its matrix is small."""
        return self.request.query_groups >= 4


_Rule = Callable[[_Layer], str | None]

_OUTPUT_PROJECTION: Mapping[str, str] = {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}

_VALUE_RULES: Mapping[str, _Rule] = {
    "q2_k": lambda layer: "Q4_K" if layer.grouped else "Q3_K",
    "q2_k_s": lambda layer: "Q4_K" if layer.grouped else None,
    "q3_k_m": lambda layer: "Q5_K" if layer.index < 2 else "Q4_K",
    "q3_k_l": lambda layer: "Q5_K",
    "q4_k_s": lambda layer: "Q5_K" if layer.index < 4 else None,
    "q4_k_m": lambda layer: "Q6_K" if layer.sensitive else None,
    "q5_k_m": lambda layer: "Q6_K" if layer.sensitive else None,
    "iq4_nl": lambda layer: "Q5_K" if layer.grouped else None,
    "iq4_xs": lambda layer: "Q5_K" if layer.grouped else None,
}

_DOWN_RULES: Mapping[str, _Rule] = {
    "q2_k": lambda layer: "Q3_K",
    "q2_k_s": lambda layer: "Q4_K" if layer.first_eighth else None,
    "q3_k_m": lambda layer: "Q5_K" if layer.index < layer.count // 16 else "Q4_K",
    "q3_k_l": lambda layer: "Q5_K",
    "q4_k_s": lambda layer: "Q5_K" if layer.first_eighth else None,
    "q4_k_m": lambda layer: "Q6_K" if layer.sensitive else None,
    "q5_k_m": lambda layer: "Q6_K" if layer.sensitive else None,
    "iq4_nl": lambda layer: "Q5_K" if layer.first_eighth and not layer.request.has_importance else None,
    "iq4_xs": lambda layer: "Q5_K" if layer.first_eighth and not layer.request.has_importance else None,
    "q4_0": lambda layer: "Q4_1" if layer.first_eighth and layer.request.has_importance else None,
    "q5_0": lambda layer: "Q5_1" if layer.first_eighth and layer.request.has_importance else None,
}


def _module(name: str) -> str:
    """``blk.3.attn_v.weight`` to ``attn_v``."""
    parts = name.split(".")
    return parts[-2] if len(parts) > 1 else name

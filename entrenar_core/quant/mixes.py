"""Which GGML type each tensor of a model is written in: the mixes of llama-quantize, and what overrides them.

A mix has a main type and gives more bits to what the answers depend on most (`mix_rules`). A row that does not divide
into blocks falls back to a type with smaller ones.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME, is_few_bits
from entrenar_core.errors import ConfigError
from entrenar_core.gguf.keys import FileType
from entrenar_core.gguf.names import OUTPUT, TOKEN_EMBD
from entrenar_core.quant.mix_rules import (
    GROUPED_HEADS,
    ModelFacts,
    Place,
    down_type,
    key_type,
    output_projection_type,
    output_type,
    value_type,
)

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
    r"_norm\.weight|ffn_gate_inp\.weight|ffn_gate_tid2eid\.weight|altup|laurel|per_layer_model_proj|ssm_conv1d"
    r"|shortconv\.conv\.weight|indexer\.[kq]_proj\.weight|attn_rel_b\.weight|^position_embd\.weight$"
    r"|^token_types\.weight$|time_mix_(first|w[012]|v[012]|a[012]|g[12]|decay_w[12]|lerp_fused)\.weight"
    r"|\.position_embd|sam\.(pos_embd|neck\.|net_)|\.rel_pos|\.patch_embd|\.patch_merger|a\.rvq\.codebook"
    r"|mm\.a\.code_embd"
)
"""Small or sensitive tensors that are no matrices of products; llama-quantize leaves them alone too."""

_LAYER = re.compile(r"blk\.(\d+)\.")
_EMBEDDINGS = (TOKEN_EMBD, "per_layer_token_embd.weight")
_VALUES, _KEYS, _DOWN, _OUTPUT_PROJECTION = "values", "keys", "down projections", "output projections"
_KINDS: Mapping[str, str] = {
    "attn_qkv.weight": _VALUES,
    "attn_kv_b.weight": _VALUES,
    "attn_v.weight": _VALUES,
    "attn_k.weight": _KEYS,
    "attn_output.weight": _OUTPUT_PROJECTION,
    "ffn_down": _DOWN,
}
"""Parts of names, and the kind of tensor that has them."""


@dataclass(frozen=True)
class MixRequest:
    """What is asked for, as the `quantize` section has it.

    mix: see `MAIN_TYPE`. types by pattern: (regular expression, GGML type), the first match counts. has_importance:
    an importance matrix is there, which changes a few choices. model: what some rules look at.
    """

    mix: str
    pure: bool = False
    output_type: str | None = None
    embedding_type: str | None = None
    tensor_types: tuple[tuple[str, str], ...] = ()
    has_importance: bool = False
    model: ModelFacts = field(default_factory=ModelFacts)


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
    return math.prod(shape[:-1]) > 1 and name.endswith("weight") and _KEPT.search(name) is None


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
    chooser = _Chooser(request, _compiled(request, tensors), tensors)
    chosen = {}
    for name in sorted(tensors, key=_order_of_layers):
        shape, present = tensors[name]
        if quantizes(name, shape):
            chosen[name] = fitting(chooser.wanted(name, shape[-1]), shape[-1])
        else:
            chosen[name] = ChosenType(present)
    return {name: chosen[name] for name in tensors}


def stated_types(tensors: Mapping[str, tuple[tuple[int, ...], str]], request: MixRequest) -> dict[str, ChosenType]:
    """The types of those matrices for which the request names one, whatever its mix; see `choose_types`."""
    chooser = _Chooser(request, _compiled(request, tensors), tensors)
    found = {}
    for name, (shape, _) in tensors.items():
        stated = chooser.stated(name) if quantizes(name, shape) else None
        if stated is not None:
            found[name] = fitting(stated, shape[-1])
    return found


def fitting(type_name: str, row: int) -> ChosenType:
    """The type, or the one that it falls back to for rows of `row` values."""
    for candidate in (type_name, FALLBACK.get(type_name)):
        if candidate is not None and row % TYPE_BY_NAME[candidate].block_size == 0:
            return ChosenType(candidate, type_name)
    return ChosenType(LAST_FALLBACK, type_name)


def file_type(mix: str) -> FileType | None:
    """The value of ``general.file_type`` for a mix."""
    return FileType.__members__.get(mix.upper())


class _Chooser:
    """Goes through the matrices layer by layer, as llama-quantize does, and counts those of each kind."""

    def __init__(
        self, request: MixRequest, patterns: list[tuple[re.Pattern[str], str]], tensors: Mapping[str, object]
    ) -> None:
        self.request = request
        self.main = MAIN_TYPE[request.mix]
        self.patterns = patterns
        self.is_tied = OUTPUT not in tensors
        kinds = Counter(_kind(name) for name in tensors)
        self.counts = {_VALUES: kinds[_VALUES], _DOWN: request.model.layers or kinds[_DOWN]}
        self.seen: Counter[str | None] = Counter()

    def wanted(self, name: str, row: int) -> str:
        """The type that is asked for, before it is known to fit."""
        return self.stated(name) or self._of_mix(name, row)

    def stated(self, name: str) -> str | None:
        """The type that the request names for this tensor, if any."""
        named = {TOKEN_EMBD: self.request.embedding_type, OUTPUT: self.request.output_type}
        by_pattern = next((type_name for pattern, type_name in self.patterns if pattern.search(name)), None)
        return _upper(named.get(name)) or by_pattern or self._of_role(name)

    def _of_role(self, name: str) -> str | None:
        """The type that is named for embeddings, or for the output that an embedding serves as."""
        if name in _EMBEDDINGS and self.request.embedding_type is not None:
            return _upper(self.request.embedding_type)
        return _upper(self.request.output_type) if self._serves_as_output(name) else None

    def _serves_as_output(self, name: str) -> bool:
        return name == OUTPUT or (self.is_tied and name in _EMBEDDINGS)

    def _of_mix(self, name: str, row: int) -> str:
        if self.request.pure or not is_few_bits(self.main):
            return self.main
        kind = _kind(name)
        place = self._place(name, kind)
        self.seen[kind] += 1
        if self._serves_as_output(name):
            return output_type(place, divides=row % TYPE_BY_NAME[self.main].block_size == 0)
        rule = _RULES.get(kind or "")
        return self.main if rule is None else rule(place)

    def _place(self, name: str, kind: str | None) -> Place:
        request, index = self.request, self.seen[kind]
        layer = _LAYER.match(name)
        if kind == _DOWN and request.model.experts > 1 and layer:
            index = int(layer[1])  # several of them in a layer
        return Place(
            mix=request.mix,
            main=self.main,
            index=index,
            count=self.counts.get(kind or "", 0),
            model=request.model,
            is_grouped=request.model.query_groups >= GROUPED_HEADS,
            has_importance=request.has_importance,
        )


_RULES: Mapping[str, Callable[[Place], str]] = {
    _VALUES: value_type,
    _KEYS: key_type,
    _DOWN: down_type,
    _OUTPUT_PROJECTION: output_projection_type,
}


def _upper(type_name: str | None) -> str | None:
    return None if type_name is None else type_name.upper()


def _kind(name: str) -> str | None:
    if name == OUTPUT or name in _EMBEDDINGS:
        return None
    return next((kind for part, kind in _KINDS.items() if part in name), None)


def _order_of_layers(name: str) -> tuple[int, str]:
    """Tensors outside the layers first, then layer by layer, by name."""
    found = _LAYER.match(name)
    return (int(found[1]) if found else -1, name)


def _compiled(
    request: MixRequest, tensors: Mapping[str, tuple[tuple[int, ...], str]]
) -> list[tuple[re.Pattern[str], str]]:
    found, where = [], "quantize.tensor_types"
    matrices = [name for name, (shape, _) in tensors.items() if quantizes(name, shape)]
    for pattern, type_name in request.tensor_types:
        try:
            compiled = re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{pattern!r} is no regular expression: {error}", where=where) from error
        if not any(compiled.search(name) for name in matrices):
            raise ConfigError(
                f"{pattern!r} finds no matrix of the model",
                where=where,
                hint="names are such as blk.0.attn_v.weight",
            )
        found.append((compiled, type_name.upper()))
    return found

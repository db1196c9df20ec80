"""Which type a mix gives a tensor instead of its main type: the rules of llama.cpp's `llama-quant.cpp`.

Value projections, some down projections, and with some mixes the output projections get more bits; models of eight
experts keep their small attention matrices in eight. A rule sees one tensor and how many of its kind came before it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

FALCON = "falcon"
GROUPED_HEADS = 4
"""Query heads that share a value head from which on its matrix is small enough to get more bits."""
_MANY_EXPERTS = 8
_LAYERS_OF_70B: Mapping[str, int] = {"llama": 80, "deci": 80, "qwen2": 80, "olmo": 80, "jais2": 68}


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

    @property
    def is_70b(self) -> bool:
        """Whether llama.cpp takes it for a model of 70 B, whose value projections are small."""
        if self.architecture == "llama" and self.heads == self.kv_heads:
            return False
        return self.layers > 0 and _LAYERS_OF_70B.get(self.architecture) == self.layers


@dataclass(frozen=True)
class Place:
    """One tensor of `count` of its kind, `index` of them before it."""

    mix: str
    main: str
    index: int
    count: int
    model: ModelFacts
    is_grouped: bool
    has_importance: bool

    @property
    def first_eighth(self) -> bool:
        return self.index < self.count // 8

    @property
    def first_sixteenth(self) -> bool:
        return self.index < self.count // 16

    @property
    def is_sensitive(self) -> bool:
        """In the first or last eighth, or every third one between."""
        eighth = self.count // 8
        return self.first_eighth or self.index >= 7 * self.count // 8 or (self.index - eighth) % 3 == 2

    @property
    def is_falcon(self) -> bool:
        return self.model.architecture == FALCON

    @property
    def has_eight_experts(self) -> bool:
        return self.model.experts == _MANY_EXPERTS


def output_type(place: Place, *, divides: bool) -> str:
    """The output matrix, or the embedding that serves as one; divides: its rows fit the main type."""
    return "Q8_0" if place.is_falcon or not divides or place.main == "Q8_0" else "Q6_K"


def value_type(place: Place) -> str:
    """The value projection, alone or joined with others."""
    if place.has_eight_experts:
        return "Q8_0"
    found = _found(_VALUE_RULES, place)
    return "Q5_K" if place.model.is_70b and found in ("Q3_K", "Q4_K") else found


def key_type(place: Place) -> str:
    """The key projection."""
    return "Q8_0" if place.has_eight_experts else place.main


def down_type(place: Place) -> str:
    """The down projection."""
    return _found(_FALCON_DOWN_RULES if place.is_falcon else _DOWN_RULES, place)


def output_projection_type(place: Place) -> str:
    """The output projection of the attention."""
    if place.is_falcon:
        return "Q4_K" if place.mix == "q3_k_l" else place.main
    if place.has_eight_experts:
        return "Q5_K" if place.mix in _RAISED_WITH_EXPERTS else place.main
    return _OUTPUT_PROJECTION.get(place.mix, place.main)


_Rule = Callable[[Place], str | None]


def _found(rules: Mapping[str, _Rule], place: Place) -> str:
    rule = rules.get(place.mix)
    return (rule(place) if rule else None) or place.main


_OUTPUT_PROJECTION: Mapping[str, str] = {"q2_k": "Q3_K", "q3_k_m": "Q4_K", "q3_k_l": "Q5_K"}
_RAISED_WITH_EXPERTS = ("q2_k", "q3_k_s", "q3_k_m", "q4_k_s", "q4_k_m", "iq4_nl", "iq4_xs")

_VALUE_RULES: Mapping[str, _Rule] = {
    "q2_k": lambda place: "Q4_K" if place.is_grouped else "Q3_K",
    "q2_k_s": lambda place: "Q4_K" if place.is_grouped else None,
    "q3_k_m": lambda place: "Q5_K" if place.index < 2 else "Q4_K",
    "q3_k_l": lambda place: "Q5_K",
    "q4_k_s": lambda place: "Q5_K" if place.index < 4 else None,
    "q4_k_m": lambda place: "Q6_K" if place.is_sensitive else None,
    "q5_k_m": lambda place: "Q6_K" if place.is_sensitive else None,
    "iq4_nl": lambda place: "Q5_K" if place.is_grouped else None,
    "iq4_xs": lambda place: "Q5_K" if place.is_grouped else None,
}

_DOWN_RULES: Mapping[str, _Rule] = {
    "q2_k": lambda place: "Q3_K",
    "q2_k_s": lambda place: "Q4_K" if place.first_eighth else None,
    "q3_k_m": lambda place: "Q5_K" if place.first_sixteenth else "Q4_K",
    "q3_k_l": lambda place: "Q5_K",
    "q4_k_s": lambda place: "Q5_K" if place.first_eighth else None,
    "q4_k_m": lambda place: "Q6_K" if place.is_sensitive else None,
    "q5_k_m": lambda place: "Q6_K" if place.is_sensitive else None,
    "iq4_nl": lambda place: "Q5_K" if place.first_eighth and not place.has_importance else None,
    "iq4_xs": lambda place: "Q5_K" if place.first_eighth and not place.has_importance else None,
    "q4_0": lambda place: "Q4_1" if place.first_eighth and place.has_importance else None,
    "q5_0": lambda place: "Q5_1" if place.first_eighth and place.has_importance else None,
}

_FALCON_DOWN_RULES: Mapping[str, _Rule] = {
    **_DOWN_RULES,
    "q3_k_m": lambda place: "Q5_K" if place.first_sixteenth else "Q4_K" if place.is_sensitive else None,
    "q3_k_l": lambda place: "Q4_K",
    "q4_k_s": lambda place: None,
    "q4_k_m": lambda place: "Q6_K" if place.first_sixteenth else "Q5_K" if place.is_sensitive else None,
}

"""The parameters of a merge: one number, a gradient over the layers, or numbers by the names of tensors.

They stand at a model, at a slice, or in the section `merge` itself, and the nearest one counts.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Section, is_number, key_of, not_allowed
from entrenar_core.config.merge_methods import RescaleWord

Gradient = tuple[float, ...]


@dataclass(frozen=True)
class Filtered:
    """A value for the tensors whose Hugging Face names contain `filter`; None or ``*``: for all."""

    filter: str | None
    value: float | Gradient

    def matches(self, name: str) -> bool:
        return self.filter is None or self.filter == "*" or self.filter in name


Setting = float | Gradient | tuple[Filtered, ...]


class WrittenFilter(Section):
    """A value for the tensors whose Hugging Face names contain `filter`; without it: for all."""

    filter: str | None = Field(default=None, min_length=1, description="part of the name, such as mlp; * for all")
    value: float | Annotated[list[float], Field(min_length=1)] = Field(
        description="a number, or numbers over the layers"
    )


_Written = (
    float | Annotated[list[float], Field(min_length=1)] | Annotated[list[WrittenFilter], Field(min_length=1)] | None
)


@dataclass(frozen=True)
class _Range:
    """The numbers that a parameter can have; `words` completes "a number ..."."""

    words: str = ""
    above: float = -math.inf
    least: float = -math.inf
    most: float = math.inf
    below: float = math.inf

    def __contains__(self, number: float) -> bool:
        return math.isfinite(number) and self.above < number < self.below and self.least <= number <= self.most

    def read(self, value: Any) -> Any:
        """A parameter as it is written: a number, a list of them, or mappings with `filter` and `value`."""
        if value is None:
            return None
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], (Mapping, Filtered)):
            return tuple(map(self._filtered, value))
        return self._gradient(value)

    def _filtered(self, entry: Any) -> Filtered:
        if isinstance(entry, Filtered):
            return entry
        if not isinstance(entry, Mapping) or "value" not in entry or not entry.keys() <= {"filter", "value"}:
            raise self._refused()
        pattern = entry.get("filter")
        if pattern is not None and (not isinstance(pattern, str) or not pattern):
            raise self._refused()
        return Filtered(pattern, self._gradient(entry["value"]))

    def _gradient(self, value: Any) -> float | Gradient:
        if isinstance(value, (list, tuple)) and value:
            return tuple(map(self._number, value))
        return self._number(value)

    def _number(self, value: Any) -> float:
        if not is_number(value) or value not in self:
            raise self._refused()
        return float(value)

    def _refused(self) -> Exception:
        lists = "a list of such numbers over the layers, or values by name such as [{filter: mlp, value: 0.5}]"
        return not_allowed(f"a number {self.words}".rstrip() + f", {lists}")


def _setting(known: _Range) -> BeforeValidator:
    return BeforeValidator(known.read, json_schema_input_type=_Written)


_SHARE = _Range("greater than 0 and of at most 1", above=0, most=1)

AnyNumber = Annotated[Setting | None, _setting(_Range())]
Share = Annotated[Setting | None, _setting(_SHARE)]
ShareBelowOne = Annotated[Setting | None, _setting(_Range("of at least 0 and less than 1", least=0, below=1))]
NotNegative = Annotated[Setting | None, _setting(_Range("of at least 0", least=0))]


def _rescale(value: Any) -> Any:
    """mergekit's truth values beside our words."""
    return {True: "l1", False: "none"}[value] if isinstance(value, bool) else value


Rescaling = Annotated[
    RescaleWord | None, AnyCase, BeforeValidator(_rescale, json_schema_input_type=RescaleWord | bool | None)
]


class ModelParameters(Section):
    """What a model counts for; at a slice or in `merge` itself: for all models that have nothing of their own."""

    weight: AnyNumber = Field(
        default=None, description="factor of a model or of its change; may be negative; default: 1"
    )
    density: Share = Field(default=None, description="share of the entries of a change that are kept; default: 1")
    gamma: ShareBelowOne = Field(
        default=None, description="breadcrumbs: share of the largest entries that are dropped; default: 0.01"
    )
    epsilon: ShareBelowOne = Field(
        default=None, description="della: half the range of the probabilities around density; default: 0.15"
    )
    scale: AnyNumber = Field(default=None, description="passthrough: factor of the values; default: 1")


class TensorParameters(ModelParameters):
    """What is said of a tensor and not of a model."""

    t: NotNegative = Field(
        default=None,
        description="slerp: the way from the first model (0) to the second (1), default: 0.5; nearswap: the distance "
        "within which values are swapped",
    )
    lambda_: AnyNumber = Field(default=None, alias="lambda", description="factor of the merged change; default: 1")
    select_topk: Share = Field(
        default=None, description="sce: share of the positions, by variance, that are kept; default: 1"
    )
    normalize: bool | None = Field(
        default=None,
        description="divide by the sum of the weights; default: true for linear, multislerp, ties and della",
    )
    rescale: Rescaling = Field(
        default=None,
        description="what makes up for dropped entries: the L1 norm of each change is restored (l1 or true), it is "
        "divided by its density, or nothing (none or false); default: l1 for dare and della",
    )
    flatten: bool | None = Field(default=None, description="nuslerp: the tensor is one vector; default: true")
    row_wise: bool | None = Field(
        default=None,
        description="nuslerp with flatten: false: what a vector is, a row (false) or, as in mergekit, a column (true); "
        "default: false",
    )
    eps: Annotated[float | None, Field(gt=0)] = Field(
        default=None, description="multislerp: smaller numbers are zero; default: 1e-8"
    )


MODEL_KEYS = tuple(ModelParameters.model_fields)
TENSOR_KEYS = tuple(name for name in TensorParameters.model_fields if name not in MODEL_KEYS)
"""Parameters, by the names of `merge.passes.Parameters`, that a model can have, and that only tensors have."""


def filters_in(section: ModelParameters) -> Iterator[tuple[str, Filtered]]:
    """Every filter of a section with the key that it stands under."""
    for name, field in type(section).model_fields.items():
        setting = getattr(section, name) if name in (*MODEL_KEYS, *TENSOR_KEYS) else None
        for entry in setting if isinstance(setting, tuple) else ():
            if isinstance(entry, Filtered):
                yield key_of(name, field), entry

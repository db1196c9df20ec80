"""The `merge` section: the trained model and others, joined over the base model when the run is finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Available, Conflict, NonEmpty, Section, UserPath, not_allowed
from entrenar_core.config.foreign_keys import NOT_YET

MethodName = Literal[
    "ties", "task_arithmetic", "linear", "slerp", "nuslerp", "multislerp", "karcher", "model_stock", "sce",
    "nearswap", "passthrough", "dare_linear", "dare_ties", "breadcrumbs", "breadcrumbs_ties", "della", "della_linear",
]  # fmt: skip
AVAILABLE_METHODS = ("ties", "task_arithmetic")
"""The methods of this release; the others are known by name and refused."""


class MergeModel(Section):
    """A model that is merged with the trained one."""

    path: Annotated[str, UserPath] = Field(min_length=1, description="a GGUF file of the same shape as model.path")
    weight: float = Field(default=1.0, description="factor of what this model changed against the base")
    density: float | None = Field(
        default=None, gt=0, le=1, description="ties: share of the changes that are kept; default: merge.density"
    )


def _models(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list of models such as [other.gguf, {path: third.gguf, weight: 0.5}]")
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in value)


_Written = Annotated[list[NonEmpty | MergeModel], Field(min_length=1)] | None


class Merge(Section):
    """The trained model, and others, joined over the base: base + lambda * sum of weight * change."""

    method: Annotated[MethodName, AnyCase, Available(AVAILABLE_METHODS)] = Field(
        description="how the changes are joined; ties and task_arithmetic are available"
    )
    density: float = Field(
        default=1.0, gt=0, le=1, description="ties: share of the changes that are kept, the largest ones"
    )
    weight: float = Field(default=1.0, description="factor of what training changed against the base")
    lambda_: float = Field(default=1.0, alias="lambda", description="factor of the joined change")
    normalize: bool = Field(
        default_factory=lambda known: known["method"] == "ties",
        description="divide by the sum of the weights; default: true for ties, else false",
    )
    models: Annotated[tuple[MergeModel, ...] | None, BeforeValidator(_models, json_schema_input_type=_Written)] = Field(
        default=None, description="models that are merged with the trained one; default: the trained model alone"
    )

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        method = str(given.get("method")).lower()
        if method in get_args(MethodName) and method not in AVAILABLE_METHODS:
            available = " or ".join(AVAILABLE_METHODS)
            yield Conflict("method", f"value {given['method']} {NOT_YET}", f"set it to {available}")
        if method == "task_arithmetic":
            for key in _densities(given):
                yield Conflict(key, "task_arithmetic keeps every change and has no density", "remove it, or use ties")


def _densities(given: Mapping[str, Any]) -> Iterator[str]:
    """The dotted keys of all densities that drop something."""
    if given.get("density", 1) != 1:
        yield "density"
    models = given.get("models")
    for index, entry in enumerate(models if isinstance(models, (list, tuple)) else ()):
        density = entry.get("density") if isinstance(entry, Mapping) else getattr(entry, "density", None)
        if density not in (None, 1):
            yield f"models.{index}.density"

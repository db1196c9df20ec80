"""The `merge` section: the trained model and others, joined over the base model when the run is finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from entrenar_core.config.base import AnyCase, Available, Conflict, NonEmpty, Section, UserPath, is_number, not_allowed
from entrenar_core.config.merge_methods import EPSILON, METHODS, MethodFacts, MethodName, methods_taking
from entrenar_core.config.merge_parameters import Rescaling

AVAILABLE_METHODS = tuple(name for name in METHODS if name != "passthrough")
"""The methods that join a trained model with others; passthrough joins nothing, and is refused."""


class MergeModel(Section):
    """A model that is merged with the trained one."""

    path: Annotated[str, UserPath] = Field(min_length=1, description="a GGUF file of the same shape as model.path")
    weight: float = Field(default=1.0, description="factor of what this model changed against the base")
    density: float | None = Field(
        default=None, gt=0, le=1, description="share of the entries of its change that are kept; default: merge.density"
    )


def _models(value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, (list, tuple)) or not value:
        raise not_allowed("a list of models such as [other.gguf, {path: third.gguf, weight: 0.5}]")
    return tuple({"path": entry} if isinstance(entry, str) else entry for entry in value)


_Written = Annotated[list[NonEmpty | MergeModel], Field(min_length=1)] | None


class Merge(Section):
    """The trained model joined with others, over the base where the method works on changes."""

    method: Annotated[MethodName, AnyCase, Available(AVAILABLE_METHODS)] = Field(
        description="how the models are joined, or what they changed against the base"
    )
    density: float = Field(
        default=1.0, gt=0, le=1, description="share of the entries of a change that are kept; 1 keeps all"
    )
    weight: float = Field(default=1.0, description="factor of the trained model, or of what training changed")
    lambda_: float = Field(default=1.0, alias="lambda", description="factor of the joined change")
    normalize: bool = Field(
        default_factory=lambda known: METHODS[known["method"]].normalize,
        description="divide by the sum of the weights; default: true for linear, multislerp, ties and della",
    )
    models: Annotated[tuple[MergeModel, ...] | None, BeforeValidator(_models, json_schema_input_type=_Written)] = Field(
        default=None, description="models that are merged with the trained one; default: the trained model alone"
    )
    rescale: Rescaling = Field(
        default=None,
        description="what makes up for dropped entries: the L1 norm of each change is restored (l1 or true), it is "
        "divided by its density, or nothing (none or false); default: l1 for dare and della",
    )
    gamma: float | None = Field(
        default=None,
        ge=0,
        lt=1,
        description="breadcrumbs: share of the largest entries that are dropped; default: 0.01",
    )
    epsilon: float | None = Field(
        default=None, ge=0, lt=1, description="della: half the range of the probabilities around density; default: 0.15"
    )
    t: float | None = Field(
        default=None,
        ge=0,
        description="slerp: the way from the trained model (0) to the other (1), default: 0.5; nearswap: the distance "
        "within which values are swapped",
    )
    select_topk: float | None = Field(
        default=None, gt=0, le=1, description="sce: share of the positions, by variance, that are kept; default: 1"
    )
    flatten: bool | None = Field(default=None, description="nuslerp: a tensor is one vector; default: true")
    row_wise: bool | None = Field(
        default=None,
        description="nuslerp with flatten: false: what a vector is, a row (false) or, as in mergekit, a column (true); "
        "default: false",
    )
    eps: float | None = Field(default=None, gt=0, description="multislerp: smaller numbers are zero; default: 1e-8")
    seed: int | None = Field(default=None, ge=0, description="of the random choice of dare and della; default: 0")

    @classmethod
    def conflicts(cls, given: Mapping[str, Any]) -> Iterator[Conflict]:
        method = str(given.get("method")).lower()
        if method not in METHODS:
            return
        if method not in AVAILABLE_METHODS:
            yield Conflict("method", f"{method} joins no models", "use it in `entrenar merge`, or set it to linear")
            return
        facts = METHODS[method]
        yield from _count_conflicts(given, method, facts)
        yield from _parameter_conflicts(given, method, facts)
        if method == "nearswap" and "t" not in given:
            yield Conflict("t", "nearswap needs a distance, and has no usual one", "set t: 0.001")
        yield from _probability_conflicts(given, facts)


_NEUTRAL: Mapping[str, float] = {"density": 1, "weight": 1, "lambda": 1, "normalize": False}
"""Values that say nothing, so that they may stand where the method has no such parameter."""


def _parameter_conflicts(given: Mapping[str, Any], method: str, facts: MethodFacts) -> Iterator[Conflict]:
    """Parameters that the method does not have, of the section and of its models."""
    for place, value in _settings(given):
        key = place.rpartition(".")[2]
        parameter = "lambda_" if key == "lambda" else key
        others = methods_taking(parameter)
        if not others or parameter in facts.takes or value == _NEUTRAL.get(key):
            continue
        if key == "density":
            yield Conflict(place, f"{method} keeps every change and has no density", "remove it, or use ties")
        else:
            yield Conflict(place, f"has no meaning for {method}", f"remove it; it is for {', '.join(others)}")


def _settings(given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Everything that is set, with its dotted key, in the section and at its models."""
    yield from given.items()
    models = given.get("models")
    for index, entry in enumerate(models if isinstance(models, (list, tuple)) else ()):
        settings = entry if isinstance(entry, Mapping) else getattr(entry, "__dict__", {})
        yield from ((f"models.{index}.{key}", value) for key, value in settings.items() if value is not None)


def _count_conflicts(given: Mapping[str, Any], method: str, facts: MethodFacts) -> Iterator[Conflict]:
    models = given.get("models")
    others = len(models) if isinstance(models, (list, tuple)) else 0
    least, most = facts.n_models
    if 1 + others < least:
        needed = "another one" if least == 2 else f"{least - 1} others"
        yield Conflict("models", f"{method} joins the trained model with {needed}", "name it: models: [other.gguf]")
    elif most is not None and 1 + others > most:
        yield Conflict("models", f"{method} takes {most} models, the trained one and {most - 1} more", "remove some")


def _probability_conflicts(given: Mapping[str, Any], facts: MethodFacts) -> Iterator[Conflict]:
    """Of della, where density ± epsilon are probabilities; with a density of 1 nothing is drawn."""
    if "epsilon" not in facts.takes:
        return
    epsilon = given.get("epsilon", EPSILON)
    for place, density in _settings(given):
        numbers = place.endswith("density") and is_number(density) and is_number(epsilon)
        if numbers and density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            message = f"density {density} - epsilon {epsilon} and their sum must lie between 0 and 1"
            yield Conflict(place, message, "set a smaller epsilon")

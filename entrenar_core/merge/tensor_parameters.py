"""All parameters of one tensor: from its models, its slice and the section of all, and seen to fit each other."""

from __future__ import annotations

from typing import cast

from entrenar_core.config.merge_file import Merging
from entrenar_core.config.merge_methods import EPSILON, GAMMA
from entrenar_core.config.merge_parameters import TensorParameters
from entrenar_core.errors import ConfigError
from entrenar_core.merge.linear_combination import SMALLEST_DIVISOR
from entrenar_core.merge.parameters import look_up, look_up_plain
from entrenar_core.merge.passes import Parameters, Rescale
from entrenar_core.merge.slices import PlannedSlice


def tensor_parameters(merge: Merging, part: PlannedSlice, name: str, t: float) -> Parameters:
    """What the method is told about one tensor.

    Args:
        merge: the section of all tensors.
        part: the slice that the tensor belongs to, with what it and its models say.
        name: see `parameters.filter_name`.
        t: where in the slice the tensor is, see `parameters.layer_fraction`.
    """
    facts = merge.facts
    upper: list[TensorParameters] = [merge] if part.section is None else [part.section, merge]

    def of_models(key: str, default: float) -> tuple[float, ...]:
        levels = [[one.section, *upper] if one.section else upper for one in part.sources]
        return tuple(look_up(key, level, name, t, default) for level in levels)

    def plain(key: str, default: object) -> object:
        found = look_up_plain(key, upper)
        return default if found is None else found

    rescale = plain("rescale", facts.rescale)
    return Parameters(
        weight=of_models("weight", 1.0),
        density=of_models("density", 1.0),
        gamma=of_models("gamma", GAMMA),
        epsilon=of_models("epsilon", EPSILON),
        scale=of_models("scale", 1.0),
        lambda_=look_up("lambda_", upper, name, t, 1.0),
        normalize=bool(plain("normalize", facts.normalize)),
        rescale=None if rescale == "none" else cast(Rescale, rescale),
        t=look_up("t", upper, name, t, 0.5),
        select_topk=look_up("select_topk", upper, name, t, 1.0),
        flatten=bool(plain("flatten", True)),
        row_wise=bool(plain("row_wise", False)),
        eps=float(cast(float, plain("eps", 1e-8))),
        seed=merge.seed or 0,
    )


def check_parameters(name: str, merge: Merging, parameters: Parameters) -> None:
    """See that the numbers of one tensor fit each other. Raises ConfigError, with its key, for one that does not."""
    if merge.method == "slerp" and parameters.t > 1:
        message = f"is {parameters.t:g} for {name}, and slerp goes from 0 to 1"
        raise ConfigError(message, where="merge.t", hint="set it to 1 or less")
    _check_divisor(name, merge, parameters)
    if "epsilon" not in merge.facts.takes:
        return
    for density, epsilon in zip(parameters.density, parameters.epsilon, strict=True):
        if density < 1 and not (density - epsilon > 0 and density + epsilon < 1):
            message = f"probabilities from {density - epsilon:g} to {density + epsilon:g} for {name} leave 0 to 1"
            hint = f"set merge.epsilon below {min(density, 1 - density):g}, which fits a density of {density:g}"
            raise ConfigError(message, where="merge.epsilon", hint=hint)


def _check_divisor(name: str, merge: Merging, parameters: Parameters) -> None:
    if merge.method == "linear" and parameters.normalize and abs(sum(parameters.weight)) < SMALLEST_DIVISOR:
        message = f"the weights for {name} sum to 0, and linear divides by their sum"
        raise ConfigError(
            message,
            where="merge.weight",
            hint="choose weights with another sum, or do not divide (normalize: false, --no-normalize)",
        )

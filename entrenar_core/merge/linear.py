"""The weighted average of models (model soups, Wortsman et al. 2022), and the copy of one."""

from __future__ import annotations

from entrenar_core.merge.linear_combination import divisor_of, linear_combination
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts


def linear(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """Σ wᵢ·xᵢ, divided by Σ wᵢ with `normalize` (unless that is nearly zero)."""
    divisor = divisor_of(parameters.weight) if parameters.normalize else 1.0
    return linear_combination([weight / divisor for weight in parameters.weight])
    yield


def passthrough(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """The one model, times `scale`."""
    return linear_combination(parameters.scale)
    yield

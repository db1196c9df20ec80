"""DARE (Yu et al. 2024): drop entries of each change at random, and make up for them."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.merge.densities import check_density
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.random_masks import mask_key, threshold
from entrenar_core.merge.selections import Drawn, Everything, Selection
from entrenar_core.merge.task_vectors import join


def dare_linear(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """Each entry of a change is kept with the probability `density`; what is kept is added up."""
    return (yield from join(tensor, parameters, _selections(tensor, parameters), vote=False))


def dare_ties(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """The same with a vote on signs."""
    return (yield from join(tensor, parameters, _selections(tensor, parameters), vote=True))


def _selections(tensor: TensorFacts, parameters: Parameters) -> Sequence[Selection]:
    return [
        _selection(mask_key(parameters.seed, model, tensor.name), density)
        for model, density in enumerate(parameters.density)
    ]


def _selection(key: int, density: float) -> Selection:
    if check_density(density) >= 1:
        return Everything()
    return Drawn(key, threshold(density), 1 / density)

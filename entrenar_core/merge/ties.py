"""TIES (Yadav et al. 2023): trim each change to its largest entries, elect a sign per entry, average who agrees."""

from __future__ import annotations

from entrenar_core.merge.densities import kept_count
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.selections import by_magnitude
from entrenar_core.merge.task_vectors import join


def ties(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """Of each change ⌊density·n⌋ entries of largest magnitude stay, and at least one; of equal ones the first."""
    ranks = [(0, kept_count(tensor.n_values, density)) for density in parameters.density]
    selections = yield from by_magnitude(tensor, ranks)
    return (yield from join(tensor, parameters, selections, vote=True))

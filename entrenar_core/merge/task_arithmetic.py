"""Task arithmetic (Ilharco et al. 2023): the changes of several models, added up."""

from __future__ import annotations

from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.selections import Everything
from entrenar_core.merge.task_vectors import join


def task_arithmetic(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """base + λ·Σ wᵢ·Δᵢ, the sum divided by Σ wᵢ with `normalize`."""
    return (yield from join(tensor, parameters, [Everything()] * tensor.n_models, vote=False))

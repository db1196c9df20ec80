"""TIES (Yadav et al. 2023): trim each change to its largest entries, elect a sign per entry, average who agrees."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entrenar_core.merge.combine import Floats, voted_sum
from entrenar_core.merge.sparsify import keep_largest


def ties(
    deltas: Sequence[Floats],
    weights: Sequence[float],
    densities: Sequence[float],
    *,
    lambda_: float = 1.0,
    normalize: bool = True,
) -> Floats:
    """What is added to the base: λ times the disjoint mean of the trimmed changes.

    Args:
        deltas: what each model changed of one tensor, float32 of one shape.
        weights: one for each.
        densities: the share of entries that each keeps, 0 < density ≤ 1.
        lambda_: factor of the result.
        normalize: divide each entry by the weights of the models that took part in it; False gives their sum.
    """
    trimmed = [keep_largest(delta, density) for delta, density in zip(deltas, densities, strict=True)]
    return np.float32(lambda_) * voted_sum(trimmed, weights, normalize=normalize)

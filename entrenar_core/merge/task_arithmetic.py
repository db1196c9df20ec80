"""Task arithmetic (Ilharco et al. 2023): the changes of several models, added up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from entrenar_core.merge.combine import Floats, weighted_sum


def task_arithmetic(
    deltas: Sequence[Floats], weights: Sequence[float], *, lambda_: float = 1.0, normalize: bool = False
) -> Floats:
    """λ·Σ wᵢ·Δᵢ, with `normalize` divided by Σ wᵢ: what is added to the base.

    Args:
        deltas: what each model changed of one tensor, float32 of one shape.
        weights: one for each.
        lambda_: factor of the result.
        normalize: divide by the sum of the weights, unless that is zero.
    """
    return np.float32(lambda_) * weighted_sum(deltas, weights, normalize=normalize)

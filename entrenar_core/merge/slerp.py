"""SLERP (Shoemake 1985): from one model to another along the great circle between their directions."""

from __future__ import annotations

import math

import numpy as np

from entrenar_core.merge.gram import Doubles, cosine, gram_matrix
from entrenar_core.merge.linear_combination import linear_combination
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts

PARALLEL = 0.9995
"""Above this |cosine| the arc is a straight line, and dividing by its sine would only add error."""


def slerp(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """From the first model (t = 0) to the second, both as one vector each; norms are interpolated along the way."""
    products = yield from gram_matrix()
    return linear_combination(slerp_coefficients(cosine(products, 0, 1), parameters.t))


def slerp_coefficients(cos: float, t: float) -> tuple[float, float]:
    """What two vectors are multiplied by. Parallel ones are interpolated linearly.

    Args:
        cos: of the angle between them.
        t: the way from the first to the second.
    """
    if abs(cos) > PARALLEL:
        return 1.0 - t, t
    angle = math.acos(cos)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


def slerp_between(products: Doubles, first: Doubles, second: Doubles, t: float) -> Doubles:
    """SLERP of two sums of models, as a sum of models.

    Args:
        products: inner products of the models, [N, N].
        first, second: coefficients of the models, [N].
        t: the way from the first to the second.
    """
    both = np.stack([first, second])
    of_first, of_second = slerp_coefficients(cosine(both @ products @ both.T, 0, 1), t)
    return of_first * first + of_second * second

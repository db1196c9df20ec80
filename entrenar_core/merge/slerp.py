"""SLERP (Shoemake 1985): from one model to another along the great circle between their directions."""

from __future__ import annotations

import math

from entrenar_core.merge.gram import Doubles, gram_matrix
from entrenar_core.merge.linear_combination import linear_combination
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts

PARALLEL = 0.9995
"""Above this |cosine| the arc is a straight line, and dividing by its sine would only add error."""


def slerp(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """From the first model (t = 0) to the second, both as one vector each; norms are interpolated along the way."""
    products = yield from gram_matrix()
    return linear_combination(slerp_coefficients(cosine(products, 0, 1), parameters.t))


def cosine(products: Doubles, first: int, second: int) -> float | None:
    """Of the angle between two vectors, from their inner products; None where one of them is zero."""
    norms = math.sqrt(products[first, first] * products[second, second])
    return min(1.0, max(-1.0, float(products[first, second]) / norms)) if norms > 0 else None


def slerp_coefficients(cos: float | None, t: float, *, parallel: float = PARALLEL) -> tuple[float, float]:
    """What the two vectors are multiplied by. Parallel vectors, and one that is zero, are interpolated linearly."""
    if cos is None or abs(cos) > parallel:
        return 1.0 - t, t
    angle = math.acos(cos)
    return math.sin((1.0 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)

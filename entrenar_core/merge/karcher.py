"""The Karcher mean: the point of the sphere with the smallest sum of squared angles to the directions of the models."""

from __future__ import annotations

import math

import numpy as np

from entrenar_core.merge.gram import Doubles, gram_matrix
from entrenar_core.merge.linear_combination import linear_combination
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts

_STEPS = 10
_TOLERANCE = 1e-5
_SMALLEST_SINE = 1e-6
"""Below this an arc has no length, or, to the opposite point, no direction."""


def karcher(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """All models count alike, and so does the base where there is one. The mean direction is found in at most ten steps
    along the mean of the arcs to the models, and multiplied by the mean norm.
    """
    products = yield from gram_matrix(with_base=tensor.has_base)
    coefficients = _mean(products).tolist()
    if tensor.has_base:
        return linear_combination(coefficients[:-1], of_base=coefficients[-1])
    return linear_combination(coefficients)


def _mean(products: Doubles) -> Doubles:
    """Coefficients [N] of the vectors whose inner products these are. Zero vectors have no direction."""
    norms = np.sqrt(np.diagonal(products))
    has_direction = norms > 0
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=has_direction)
    cosines = products * np.outer(inverse, inverse)
    mean = _unit(has_direction / max(1, has_direction.sum()), cosines)
    for _ in range(_STEPS):
        arcs = _arcs(cosines @ mean)
        # The arc to model i is arcs[i]·(uᵢ − cos·m); its mean over the models, as coefficients of the directions uᵢ.
        step = np.where(has_direction, arcs, 0.0) / max(1, has_direction.sum())
        step = step - (step @ (cosines @ mean)) * mean
        length = math.sqrt(max(0.0, float(step @ cosines @ step)))
        if length < _TOLERANCE:
            break
        mean = _unit(math.cos(length) * mean + math.sin(length) / length * step, cosines)
    return mean * inverse * norms.mean()


def _unit(coefficients: Doubles, cosines: Doubles) -> Doubles:
    """The sum of directions made one; the first one where the sum has none."""
    length = math.sqrt(max(0.0, float(coefficients @ cosines @ coefficients)))
    if length < _TOLERANCE:
        coefficients = np.zeros_like(coefficients)
        coefficients[int(np.argmax(np.diagonal(cosines) > 0))] = 1.0
        return coefficients
    return coefficients / length


def _arcs(cos: Doubles) -> Doubles:
    """angle / sin(angle), which is 1 at an angle of zero."""
    angle = np.arccos(np.clip(cos, -1, 1))
    sine = np.sin(angle)
    return np.divide(angle, sine, out=np.ones_like(sine), where=sine >= _SMALLEST_SINE)

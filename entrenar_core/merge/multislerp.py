"""MultiSLERP: a weighted mean of any number of models on the sphere, in one step from the mean of their directions."""

from __future__ import annotations

import math

import numpy as np

from entrenar_core.merge.gram import Doubles, gram_matrix
from entrenar_core.merge.linear_combination import divisor_of, linear_combination
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.task_vectors import add_changes


def multislerp(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """The weighted mean of the directions, made a direction, times the weighted mean of the norms.

    The step in the plane that touches the sphere there is the weighted sum of what of each direction lies in it, and
    that is zero for the mean direction itself: nothing is left to be gone. With `normalize` the weights are divided by
    their sum; with a base all is about the changes. Numbers below `eps` are zero: where the mean has no direction, it
    is the weighted sum itself.
    """
    products = yield from gram_matrix(of_changes=tensor.has_base)
    weights = np.array(parameters.weight)
    if parameters.normalize:
        weights = weights / divisor_of(parameters.weight)
    coefficients = _coefficients(products, weights, parameters.eps)
    return add_changes(coefficients) if tensor.has_base else linear_combination(coefficients)


def _coefficients(products: Doubles, weights: Doubles, eps: float) -> list[float]:
    norms = np.sqrt(np.diagonal(products))
    mean = weights / (norms + eps)  # the sum of the directions, as factors of the models
    length = math.sqrt(max(0.0, float(mean @ products @ mean)))
    if length < eps:
        return [float(weight) for weight in weights]
    return [float(factor) for factor in mean / length * (weights @ norms)]

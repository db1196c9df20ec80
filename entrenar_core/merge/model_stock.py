"""Model Stock (Jang et al. 2024): from the base towards the average, as far as the models' angles say."""

from __future__ import annotations

import math
from itertools import combinations

from entrenar_core.merge.gram import Doubles, cosine, gram_matrix
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.task_vectors import add_changes

_SMALLEST_DIVISOR = 1e-8


def model_stock(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """t·average + (1 − t)·base with t = N·c / (1 + (N − 1)·c), where c is the mean cosine of two changes."""
    products = yield from gram_matrix(of_changes=True)
    return add_changes([_way(products) / tensor.n_models] * tensor.n_models)


def _way(products: Doubles) -> float:
    count = len(products)
    cosines = [cosine(products, *pair) for pair in combinations(range(count), 2)]
    mean = math.fsum(cosines) / len(cosines)
    divisor = 1 + (count - 1) * mean
    # The divisor is the squared norm of the sum of N directions over N: at zero the average says nothing.
    return count * mean / divisor if divisor > _SMALLEST_DIVISOR else 0.0

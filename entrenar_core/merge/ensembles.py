"""More than two models joined by SLERP, two at a time: one after another, or pairwise in a tree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.merge.gram import Doubles, gram_matrix
from entrenar_core.merge.linear_combination import SMALLEST_DIVISOR, linear_combination
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.slerp import slerp_between


@dataclass(frozen=True)
class _Joined:
    """Models that have been joined: what each is multiplied by, and what all weigh together."""

    coefficients: Doubles
    weight: float


def iterative_slerp(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """Each model is joined to those before it, with its share of the weight so far: equal weights, equal shares."""
    products = yield from gram_matrix()
    joined, *others = _single_models(parameters)
    for other in others:
        joined = _join(products, joined, other)
    return linear_combination(joined.coefficients.tolist())


def hierarchical(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """Neighbours are joined, then neighbours of these, up to one; an odd one moves up alone."""
    products = yield from gram_matrix()
    level: Sequence[_Joined] = _single_models(parameters)
    while len(level) > 1:
        pairs = [_join(products, *level[at : at + 2]) for at in range(0, len(level) - 1, 2)]
        level = [*pairs, *level[2 * len(pairs) :]]
    return linear_combination(level[0].coefficients.tolist())


def _single_models(parameters: Parameters) -> list[_Joined]:
    units = np.eye(len(parameters.weight))
    return [_Joined(unit, weight) for unit, weight in zip(units, parameters.weight, strict=True)]


def _join(products: Doubles, first: _Joined, second: _Joined) -> _Joined:
    weight = first.weight + second.weight
    return _Joined(
        slerp_between(products, first.coefficients, second.coefficients, share(first.weight, second.weight)), weight
    )


def share(first: float, second: float) -> float:
    """The part of the second in two weights; one half where they cancel."""
    total = first + second
    return second / total if abs(total) >= SMALLEST_DIVISOR else 0.5

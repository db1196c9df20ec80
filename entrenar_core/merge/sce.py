"""SCE (Wan et al. 2024): select where models disagree most, calculate their weights, erase what is in the minority."""

from __future__ import annotations

from collections.abc import Generator
from itertools import combinations
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.cutoffs import Cutoff, find_cutoffs
from entrenar_core.merge.gram import changes_of
from entrenar_core.merge.passes import Floats, Inputs, Parameters, Pass, Passes, TensorFacts

_SMALLEST_WEIGHTS = 1e-6
_SMALLEST_DIVISOR = np.float32(1e-6)


def sce(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """base + the weighted mean of the changes that have the sign of their sum.

    With `select_topk` below 1 this share of the positions whose variance over the models is not zero is kept, those of
    largest variance, and at least one. Model i weighs as much as its share of the sum of squares of what is kept of all
    changes; all weigh the same where mean squares add up to less than 1e-6.
    """
    cutoff = None
    if parameters.select_topk < 1:
        [[cutoff]] = yield from find_cutoffs(
            _variance, lambda n_positions: [[max(1, int(parameters.select_topk * n_positions[0]))]]
        )
    weights = yield from _weights(tensor, cutoff)

    def combine(inputs: Inputs, out: Floats) -> None:
        assert inputs.base is not None
        changes = _selected(inputs, cutoff)
        positive = changes.sum(axis=0) >= 0
        agrees = np.where(positive, changes > 0, changes < 0)
        counted = agrees * weights[:, None, None]
        np.divide((changes * counted).sum(axis=0), np.maximum(counted.sum(axis=0), _SMALLEST_DIVISOR), out=out)
        out += inputs.base

    return combine


def _variance(inputs: Inputs) -> tuple[Floats, Floats]:
    """The statistic of `find_cutoffs`: the variance over the models at each position."""
    models = inputs.models.reshape(inputs.models.shape[0], -1)
    variance = np.zeros_like(models[:1])
    for first, second in combinations(models, 2):
        variance += np.square(first - second)  # where all are equal this is zero, and the usual formula may not be
    variance /= np.float32(len(models) ** 2)
    return variance, np.zeros_like(variance[0])


def _selected(inputs: Inputs, cutoff: Cutoff | None) -> Floats:
    changes = changes_of(inputs)
    if cutoff is not None:
        variance, _ = _variance(inputs)
        changes *= cutoff.mask(inputs.piece, variance[0]).reshape(changes.shape[1:])
    return changes


def _weights(tensor: TensorFacts, cutoff: Cutoff | None) -> Generator[Pass, Any, npt.NDArray[np.float32]]:
    """One pass. What each model weighs, [N]."""

    def look(inputs: Inputs) -> npt.NDArray[np.float64]:
        return np.square(_selected(inputs, cutoff), dtype=np.float64).sum(axis=2)

    rows = yield Pass(look)
    energies = np.concatenate(rows, axis=1).sum(axis=1) / tensor.n_values
    if energies.sum() < _SMALLEST_WEIGHTS:
        energies = np.ones_like(energies)
    return np.asarray(energies / energies.sum(), np.float32)

"""DELLA (Deep et al. 2024): drop entries of each change at random, small ones more often than large ones.

Of equal magnitudes in a row the first has the higher rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.merge.densities import check_density
from entrenar_core.merge.passes import Floats, Parameters, Passes, Piece, TensorFacts
from entrenar_core.merge.random_masks import mask_key, state_at
from entrenar_core.merge.selections import Everything, Selection
from entrenar_core.merge.task_vectors import join
from entrenar_core.stored_kernels import StoredKernel

_choose_by_rank = StoredKernel("entrenar_core.merge.rank_kernels", "choose_by_rank")

_COUNTS = (1 << 11) + 1
"""Scratch of the kernel: one more than there are values of 11 bits."""


def della(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """An entry is kept with a probability between density − epsilon and density + epsilon, which rises linearly with
    the rank of its magnitude in its row; then signs are elected. With a density of 1 or more everything is kept.

    Raises:
        ValueError: density ± epsilon is not between 0 and 1.
    """
    return (yield from join(tensor, parameters, _selections(tensor, parameters), vote=True))


def della_linear(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """The same without a vote."""
    return (yield from join(tensor, parameters, _selections(tensor, parameters), vote=False))


@dataclass(frozen=True)
class Ranked:
    """What is kept of one model's change.

    Attributes:
        key: of the random bits.
        density, epsilon: see `della`.
        divides: whether each entry is divided by the probability that it had.
    """

    key: int
    density: float
    epsilon: float
    divides: bool
    gain: float = 1.0

    def chosen(self, piece: Piece, change: Floats) -> Floats:
        """See `selections.Selection`."""
        n_columns = change.shape[1]
        rising = np.linspace(-self.epsilon, self.epsilon, n_columns) if n_columns > 1 else np.zeros(1)
        probabilities = self.density + rising
        thresholds = np.ceil(probabilities * 2.0**32).astype(np.uint64)
        gains = (1 / probabilities if self.divides else np.ones(n_columns)).astype(np.float32)
        state = np.array([state_at(self.key, piece.first_row * n_columns)], np.uint64)
        chosen = np.empty(change.shape, np.float32)
        magnitudes, columns = np.empty(n_columns, np.uint32), np.empty((2, n_columns), np.uint32)
        with np.errstate(over="ignore"):  # random bits wrap around
            _choose_by_rank(change, chosen, state, thresholds, gains, magnitudes, columns, np.empty(_COUNTS, np.int32))
        return chosen


def _selections(tensor: TensorFacts, parameters: Parameters) -> Sequence[Selection]:
    pairs = zip(parameters.density, parameters.epsilon, strict=True)
    keys = (mask_key(parameters.seed, model, tensor.name) for model in range(tensor.n_models))
    divides = parameters.rescale == "density"
    return [_selection(key, *pair, divides=divides) for key, pair in zip(keys, pairs, strict=True)]


def _selection(key: int, density: float, epsilon: float, *, divides: bool) -> Selection:
    if check_density(density) >= 1:
        return Everything()
    if not 0 < density - abs(epsilon) <= density + abs(epsilon) < 1:
        raise ValueError(f"density {density} ± epsilon {epsilon} is not between 0 and 1")
    return Ranked(key, density, epsilon, divides)

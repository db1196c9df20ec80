"""DELLA (Deep et al. 2024): drop entries of each change at random, small ones more often than large ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.densities import check_density
from entrenar_core.merge.passes import Floats, Parameters, Passes, Piece, TensorFacts
from entrenar_core.merge.random_masks import draws, mask_key
from entrenar_core.merge.selections import Everything, Selection
from entrenar_core.merge.task_vectors import join

_COLUMN = np.uint64(0xFFFFFFFF)


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

    def probabilities(self, magnitudes: Floats) -> npt.NDArray[np.float64]:
        """Of each entry of rows [r, C]; of equal ones in a row the first has the higher rank."""
        n_columns = magnitudes.shape[1]
        rising = np.linspace(-self.epsilon, self.epsilon, n_columns) if n_columns > 1 else np.zeros(1)
        from_the_right = np.arange(n_columns - 1, -1, -1, dtype=np.uint64)
        keys = magnitudes.view(np.uint32).astype(np.uint64) << np.uint64(32) | from_the_right
        keys.sort(axis=1)
        columns = (n_columns - 1) - (keys & _COLUMN).astype(np.int64)
        found = np.empty(magnitudes.shape)
        np.put_along_axis(found, columns, np.broadcast_to(self.density + rising, found.shape), axis=1)
        return found

    def chosen(self, piece: Piece, change: Floats) -> Floats:
        """See `selections.Selection`."""
        probabilities = self.probabilities(np.abs(change))
        bits = draws(self.key, piece.first_row * change.shape[1], change.size).reshape(change.shape)
        kept = np.where(bits < probabilities * 2.0**32, change, np.float32(0))
        return (kept / probabilities).astype(np.float32) if self.divides else kept


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

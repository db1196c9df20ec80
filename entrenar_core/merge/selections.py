"""Which entries of one model's change are kept: the largest, or a random part of them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from entrenar_core.merge.cutoffs import Cutoff, changes_of_models, find_cutoffs
from entrenar_core.merge.passes import Floats, Pass, Piece, TensorFacts
from entrenar_core.merge.random_masks import draws


class Selection(Protocol):
    """What is kept. `gain`: what the kept entries are multiplied by to make up for their density."""

    @property
    def gain(self) -> float: ...

    def chosen(self, piece: Piece, change: Floats) -> Floats:
        """The entries of a piece of the change, float32 [r, C], with zeros for those that are dropped."""
        ...


@dataclass(frozen=True)
class Everything:
    """No entry is dropped."""

    gain: float = 1.0

    def chosen(self, piece: Piece, change: Floats) -> Floats:
        """The change itself."""
        del piece
        return change


@dataclass(frozen=True)
class Between:
    """Those among the first of `kept`, without the first of `dropped`, by magnitude in the whole tensor."""

    kept: Cutoff
    dropped: Cutoff
    gain: float

    def steps(self, piece: Piece, change: Callable[[], Floats]) -> list[tuple[int, np.float32, np.float32]]:
        """From which element of a piece on which magnitudes are kept: at least the first, and below the second."""
        lowest = self.kept.steps(piece, lambda: np.abs(change()).reshape(-1))
        highest = self.dropped.steps(piece, lambda: np.abs(change()).reshape(-1))
        starts = sorted({start for start, _ in lowest + highest})
        return [(start, _at(lowest, start), _at(highest, start)) for start in starts]

    def chosen(self, piece: Piece, change: Floats) -> Floats:
        """See `Selection`."""
        magnitudes = np.abs(change).reshape(-1)
        kept = self.kept.mask(piece, magnitudes) & ~self.dropped.mask(piece, magnitudes)
        return np.where(kept.reshape(change.shape), change, np.float32(0))


def _at(steps: Sequence[tuple[int, np.float32]], element: int) -> np.float32:
    return [value for start, value in steps if start <= element][-1]


@dataclass(frozen=True)
class Drawn:
    """Each for itself, if 32 random bits are below a threshold: see `random_masks`."""

    key: int
    threshold: int
    gain: float

    def chosen(self, piece: Piece, change: Floats) -> Floats:
        """See `Selection`."""
        bits = draws(self.key, piece.first_row * change.shape[1], change.size)
        return np.where(bits.reshape(change.shape) < np.uint64(self.threshold), change, np.float32(0))


def by_magnitude(
    tensor: TensorFacts, ranks: Sequence[tuple[int, int]]
) -> Generator[Pass, Any, list[Everything | Between]]:
    """At most two passes. What each model keeps, if the entries of its change are ordered by falling magnitude.

    Args:
        tensor: has `n_values` entries.
        ranks: for each model how many of the first entries are dropped, and up to which the others are kept.
    """
    n_values = tensor.n_values
    if all(first == 0 and last >= n_values for first, last in ranks):
        return [Everything() for _ in ranks]
    cutoffs = yield from find_cutoffs(changes_of_models, lambda nonzero: ranks)
    gains = [n_values / (last - first) for first, last in ranks]
    return [Between(kept, dropped, gain) for (dropped, kept), gain in zip(cutoffs, gains, strict=True)]

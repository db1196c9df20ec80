"""Model breadcrumbs (Davari & Belilovsky 2023): drop the outliers of each change, and what is small."""

from __future__ import annotations

from entrenar_core.merge.densities import kept_count
from entrenar_core.merge.passes import Parameters, Passes, TensorFacts
from entrenar_core.merge.selections import by_magnitude
from entrenar_core.merge.task_vectors import join


def breadcrumbs(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """The ⌊gamma·n⌋ largest entries go, the ⌊density·n⌋ next ones stay and are added up.

    A density comes first: where both do not fit, fewer large entries go, and with 1 none does.
    """
    return (yield from _joined(tensor, parameters, vote=False))


def breadcrumbs_ties(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """The same with a vote on signs."""
    return (yield from _joined(tensor, parameters, vote=True))


def _joined(tensor: TensorFacts, parameters: Parameters, *, vote: bool) -> Passes:
    pairs = zip(parameters.density, parameters.gamma, strict=True)
    selections = yield from by_magnitude(tensor, [kept_ranks(tensor.n_values, *pair) for pair in pairs])
    return (yield from join(tensor, parameters, selections, vote=vote))


def kept_ranks(n_values: int, density: float, gamma: float) -> tuple[int, int]:
    """How many of the largest entries are dropped, and the rank up to which the others are kept."""
    kept = kept_count(n_values, density)
    dropped = min(int(gamma * n_values), n_values - kept)
    return dropped, dropped + kept

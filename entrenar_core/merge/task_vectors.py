"""The task-vector family: base + λ·Σ wᵢ·S(Δᵢ), where Δᵢ is what model i changed and S keeps a part of its entries.

Two things are optional. A vote: the sign of Σ wᵢ·S(Δᵢ) is elected for each entry (+ for zero), and those entries that
have the other one, or are zero, take no part. And a division by the sum of the weights, with a vote by those that took
part.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.linear_combination import divisor_of, factors_of
from entrenar_core.merge.passes import Combine, Floats, Inputs, Parameters, Pass, Passes, TensorFacts
from entrenar_core.merge.random_masks import state_at
from entrenar_core.merge.selections import Between, Drawn, Everything, Selection
from entrenar_core.stored_kernels import StoredKernel

_KERNELS = "entrenar_core.merge.change_kernels"
_join_changes = StoredKernel(_KERNELS, "join_changes")
_sum_magnitudes = StoredKernel(_KERNELS, "sum_magnitudes")

_ALWAYS = 1 << 32
"""A threshold that is above any 32 random bits."""

_BLOCK = 512
"""Elements worked on at a time."""

_QUICK = (Everything, Between, Drawn)
"""What the kernel chooses itself."""


def join(tensor: TensorFacts, parameters: Parameters, selections: Sequence[Selection], *, vote: bool) -> Passes:
    """What is kept of each change, made up for what is dropped, joined and put on the base.

    Raises:
        ValueError: there is no base, or the number of weights is not that of the models.
    """
    if not tensor.has_base:
        raise ValueError("changes are measured against a base, and there is none")
    if not len(parameters.weight) == len(selections) == tensor.n_models:
        raise ValueError(f"{len(parameters.weight)} weights do not fit {tensor.n_models} models")
    gains = yield from _gains(parameters, selections)
    return _joined(parameters, selections, gains, vote=vote)


def add_changes(coefficients: Sequence[float]) -> Combine:
    """The merge base + Σ cᵢ·Δᵢ."""
    parameters = Parameters(weight=tuple(coefficients), density=(), gamma=(), epsilon=(), scale=())
    ones = [1.0] * len(coefficients)
    return _joined(parameters, [Everything()] * len(coefficients), ones, vote=False)


def _gains(parameters: Parameters, selections: Sequence[Selection]) -> Generator[Pass, Any, list[float]]:
    """What each model's kept entries are multiplied by, because others were dropped."""
    if parameters.rescale == "density":
        return [selection.gain for selection in selections]
    if parameters.rescale is None or all(isinstance(selection, Everything) for selection in selections):
        return [1.0] * len(selections)
    rows = yield Pass(lambda inputs: _norms(inputs, selections))
    norms = np.concatenate(rows, axis=1).sum(axis=1).reshape(-1, 2)
    return [float(before / after) if after > 0 else 1.0 for before, after in norms]


def _norms(inputs: Inputs, selections: Sequence[Selection]) -> npt.NDArray[np.float64]:
    """L1 norms of each row of a piece, float64 [2·N, r]: of the change and of what is kept of it, model by model."""
    assert inputs.base is not None
    n_rows, n_columns = inputs.base.shape
    sums = np.empty((2 * len(selections), n_rows))
    if all(isinstance(selection, (Everything, Drawn)) for selection in selections):
        with np.errstate(over="ignore"):
            _sum_magnitudes(inputs.models.reshape(-1, n_columns), inputs.base, _chances(inputs, selections), sums)
        return sums
    for i, selection in enumerate(selections):
        change = inputs.models[i] - inputs.base
        np.abs(change).sum(axis=1, dtype=np.float64, out=sums[2 * i])
        np.abs(selection.chosen(inputs.piece, change)).sum(axis=1, dtype=np.float64, out=sums[2 * i + 1])
    return sums


def _joined(parameters: Parameters, selections: Sequence[Selection], gains: Sequence[float], *, vote: bool) -> Combine:
    weights = parameters.weight
    divisor = divisor_of(weights) if parameters.normalize and not vote else 1.0
    return _Joined(
        selections=selections,
        factors=factors_of([(weight * gain, weight) for weight, gain in zip(weights, gains, strict=True)]),
        options=np.array([vote, parameters.normalize], np.int64),
        scale=factors_of([parameters.lambda_ / divisor]),
    )


@dataclass(frozen=True)
class _Joined:
    """See `SparseCombine`; the arrays are those of the kernel `join_changes`."""

    selections: Sequence[Selection]
    factors: Floats
    options: npt.NDArray[np.int64]
    scale: Floats

    def __call__(self, inputs: Inputs, out: Floats, /) -> None:
        assert inputs.base is not None
        selections, base = self.selections, inputs.base.reshape(-1)
        is_quick = all(isinstance(selection, _QUICK) for selection in selections)
        models, start = (inputs.models, base) if is_quick else (_chosen(inputs, selections), np.zeros_like(base))
        flat = models.reshape(len(selections), -1)
        scratch = np.empty((len(selections) + 3, _BLOCK), np.float32)
        chances, tables = _chances(inputs, selections), (self.factors, self.options, self.scale, scratch)
        for span, bounds in _spans(inputs, selections):
            with np.errstate(over="ignore"):  # random bits wrap around
                _join_changes(flat, start, base, out.reshape(-1), span, bounds, chances, *tables)

    def n_kept(self, inputs: Inputs) -> tuple[int, ...]:
        return tuple(int(np.count_nonzero(chosen)) for chosen in _chosen(inputs, self.selections))


def _chosen(inputs: Inputs, selections: Sequence[Selection]) -> Floats:
    """What is kept of each change, float32 [N, r, C]."""
    assert inputs.base is not None
    changes = inputs.models - inputs.base
    for change, selection in zip(changes, selections, strict=True):
        change[...] = selection.chosen(inputs.piece, change)
    return changes


def _chances(inputs: Inputs, selections: Sequence[Selection]) -> npt.NDArray[np.uint64]:
    """For each model the random state of a piece's first element, and the threshold."""
    chances = np.full((len(selections), 2), _ALWAYS, np.uint64)
    first = inputs.piece.first_row * inputs.models.shape[2]
    for i, selection in enumerate(selections):
        if isinstance(selection, Drawn):
            chances[i] = state_at(selection.key, first), selection.threshold
    return chances


def _spans(inputs: Inputs, selections: Sequence[Selection]) -> Iterator[tuple[npt.NDArray[np.int64], Floats]]:
    """Parts of a piece in which every model has one range of magnitudes: first and last element, and the ranges."""
    steps = [_steps(inputs, i, selection) for i, selection in enumerate(selections)]
    starts = sorted({start for of_model in steps for start, _, _ in of_model})
    for start, stop in pairwise([*starts, inputs.models[0].size]):
        ranges = [[pair for at, *pair in of_model if at <= start][-1] for of_model in steps]
        yield np.array([start, stop], np.int64), np.array(ranges, np.float32)


def _steps(inputs: Inputs, i: int, selection: Selection) -> list[tuple[int, np.float32, np.float32]]:
    base = inputs.base
    assert base is not None
    if not isinstance(selection, Between):
        return [(0, np.float32(0), np.float32(np.inf))]
    return selection.steps(inputs.piece, lambda: inputs.models[i] - base)

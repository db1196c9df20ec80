"""The order in which a data set that is never held as a whole is read: short runs of rows, drawn from all row groups.

A row group can only be read from its start, so the runs of one group come in their own order, spread evenly over the
pass with a random jitter. A thousand rows of a pass therefore come from everywhere in the data, and after a tenth of it
a tenth of every group is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.data.order import Int64Array, Purpose, uniforms

RUN_ROWS = 16
"""Rows that are read in one go from a group; they are mixed with the rows of many other runs."""

MOST_VISITS = 1 << 20
"""Longer plans use longer runs, so that a plan stays small however many rows there are."""


@dataclass(frozen=True)
class StreamPlan:
    """All visits of one pass: visit i reads run `runs[i]` of group `groups[i]`.

    Attributes:
        groups: int64 [visits], indices into the list of groups.
        runs: int64 [visits], which run of the group; runs have `run_rows` rows, the last one of a group maybe fewer.
    """

    groups: Int64Array
    runs: Int64Array
    run_rows: int

    def __len__(self) -> int:
        return len(self.groups)


def run_length(group_rows: Sequence[int]) -> int:
    """Rows of a run: `RUN_ROWS`, or more where the plan would have more than `MOST_VISITS` entries."""
    return max(RUN_ROWS, -(-sum(group_rows) // MOST_VISITS))


def plan_pass(
    group_rows: Sequence[int], weights: Sequence[float], *, shuffle: bool, seed: int, index: int
) -> StreamPlan:
    """The visits of pass `index`.

    Args:
        group_rows: rows of each group, at least 1.
        weights: of each group's source: how often its rows are visited in a pass. A group whose weight is not whole
            goes on where the pass before left it.
        shuffle: mix the groups; otherwise one comes after the other.
        seed: with `index`, all that the order depends on.
    """
    run_rows = run_length(group_rows)
    in_group = np.array([-(-rows // run_rows) for rows in group_rows], dtype=np.int64)
    begins, ends = (_visited(in_group, np.asarray(weights), seed=seed, passes=passes) for passes in (index, index + 1))
    counts = ends - begins
    if not counts.any():
        counts[int(np.argmax(np.asarray(weights) * in_group))] = 1
    groups = np.repeat(np.arange(len(counts)), counts)
    first = np.concatenate(([0], np.cumsum(counts)))[:-1]
    ranks = np.arange(len(groups)) - np.repeat(first, counts)
    runs = (ranks + begins[groups]) % in_group[groups]
    if shuffle:
        jitter = uniforms(len(groups), seed=seed, epoch=index, purpose=Purpose.STREAM)
        order = np.argsort((ranks + jitter) / counts[groups], kind="stable")
        groups, runs = groups[order], runs[order]
    return StreamPlan(groups, runs, run_rows)


def _visited(in_group: Int64Array, weights: npt.NDArray[np.float64], *, seed: int, passes: int) -> Int64Array:
    """Visits to each group in the first `passes` passes: weight times runs times passes, rounded down from a random
    beginning, so that small groups with a small weight are skipped in some passes and not in others."""
    phase = uniforms(len(in_group), seed=seed, epoch=0, purpose=Purpose.SOURCE)
    return np.floor(weights * in_group * passes + phase).astype(np.int64)

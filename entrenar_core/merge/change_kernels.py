"""Kernels of the task-vector family: changes of N models made sparse, joined with or without a vote, put on the base.

Each is elementwise (nothing is summed over elements but norms), exact and in the order of the models, so that the
result depends on nothing but the values.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_ZERO, _ONE = np.float32(0.0), np.float32(1.0)
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_32_BITS = np.uint64(0xFFFFFFFF)
_30, _27, _31, _32 = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(32)


@kernel(exact=True, inline=True)
def draw(state):
    """32 random bits (uint64) of a state of SplitMix64 (Steele et al. 2014)."""
    state = (state ^ (state >> _30)) * _FIRST
    state = (state ^ (state >> _27)) * _SECOND
    return (state ^ (state >> _31)) >> _32


@kernel(exact=True, inline=True)
def _add_between(values, base, lowest, highest, factor, part, total):
    for j in range(values.size):
        change = values[j] - base[j]
        magnitude = abs(change)
        kept = (magnitude >= lowest) & (magnitude < highest)
        change = change * factor if kept else _ZERO
        part[j] = change
        total[j] += change


@kernel(exact=True, inline=True)
def _add_drawn(values, base, state, threshold, factor, part, total):
    for j in range(values.size):
        change = (values[j] - base[j]) * factor
        change = change if draw(state + np.uint64(j) * GOLDEN) < threshold else _ZERO
        part[j] = change
        total[j] += change


@kernel(exact=True, inline=True)
def _vote(part, elected, weight, total, divisor):
    for j in range(part.size):
        agrees = part[j] > _ZERO if elected[j] >= _ZERO else part[j] < _ZERO
        total[j] += part[j] if agrees else _ZERO
        divisor[j] += weight if agrees else _ZERO


@kernel(exact=True, inline=True)
def _choose(models, before, start, bounds, chances, factors, scratch):
    """What is chosen of the changes of elements from `start` on, and in row N its sum; scratch float32 [N + 3, b]."""
    n_models, size = models.shape[0], before.size
    total = scratch[n_models, :size]
    total[:] = _ZERO
    for i in range(n_models):
        values, part = models[i, start : start + size], scratch[i, :size]
        if chances[i, 1] > _32_BITS:
            _add_between(values, before, bounds[i, 0], bounds[i, 1], factors[i, 0], part, total)
        else:
            state = chances[i, 0] + np.uint64(start) * GOLDEN
            _add_drawn(values, before, state, chances[i, 1], factors[i, 0], part, total)


@kernel(exact=True, inline=True)
def _elect(scratch, size, factors, divides):
    """The sum of the entries that have the sign of row N, in row N + 1."""
    n_models = factors.shape[0]
    elected, total, divisor = scratch[n_models, :size], scratch[n_models + 1, :size], scratch[n_models + 2, :size]
    total[:] = _ZERO
    divisor[:] = _ZERO
    for i in range(n_models):
        _vote(scratch[i, :size], elected, factors[i, 1], total, divisor)
    if divides:
        for j in range(size):
            total[j] = total[j] / (divisor[j] if divisor[j] != _ZERO else _ONE)


@kernel(exact=True)
def join_changes(models, start_values, base, out, span, bounds, chances, factors, options, scale, scratch):
    """base + λ·Σ of what is chosen of the changes, or with a vote of those entries that have the elected sign.

    models: float32 [N, n]. start_values: float32 [n], what the changes are measured against. base, out: float32 [n].
    span: int64 [2], the elements that are made. bounds: float32 [N, 2]; low ≤ |change| < high is kept.
    chances: uint64 [N, 2], the state of element 0, and below what 32 random bits keep an element; 2³² or more: there is
    no chance, and bounds count. factors: float32 [N, 2], what a change is multiplied by, and what it counts in the
    divisor. options: int64 [2], whether there is a vote, and whether it divides. scale: float32 [1], λ.
    scratch: float32 [N + 3, b] for any b; small enough for the first-level cache is fast.
    """
    has_vote, divides, width = options[0], options[1], scratch.shape[1]
    total = scratch[models.shape[0] + 1] if has_vote else scratch[models.shape[0]]
    for start in range(span[0], span[1], width):
        size = min(width, span[1] - start)
        _choose(models, start_values[start : start + size], start, bounds, chances, factors, scratch)
        if has_vote:
            _elect(scratch, size, factors, divides)
        merged, before = out[start : start + size], base[start : start + size]
        for j in range(size):
            merged[j] = before[j] + scale[0] * total[j]


@kernel()
def sum_magnitudes(models, base, chances, sums):
    """The L1 norms of the changes, row by row: of all entries, and of those that chance keeps.

    models: float32 [N·r, C]. base: float32 [r, C]. chances: uint64 [N, 2], see `join_changes`.
    sums: float64 [2·N, r], written.
    """
    n_rows, n_columns = base.shape
    for i in range(chances.shape[0]):
        for row in range(n_rows):
            values, before = models[i * n_rows + row], base[row]
            state = chances[i, 0] + np.uint64(row * n_columns) * GOLDEN
            threshold = chances[i, 1]
            every, kept = np.float64(0.0), np.float64(0.0)
            for j in range(n_columns):
                magnitude = np.float64(abs(values[j] - before[j]))
                every += magnitude
                kept += magnitude if draw(state + np.uint64(j) * GOLDEN) < threshold else np.float64(0.0)
            sums[2 * i, row] = every
            sums[2 * i + 1, row] = kept

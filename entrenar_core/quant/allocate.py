"""Chooses a type for each tensor so that the file stays under a size and the errors add up to as little as possible.

All tensors start with their smallest type; then the upgrade that takes away the most error for each byte is made, again
and again, until none fits any more. Along the lower convex hull of sizes and errors this is the best that a Lagrange
multiplier finds; what room is left at the end goes to single upgrades beside the hull.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """A type that a tensor could have, its bytes in the file (padding included) and its error."""

    type_name: str
    n_bytes: int
    error: float


Choices = Sequence[Candidate]


def useful(candidates: Choices) -> list[Candidate]:
    """Those that no other beats in both size and error, from the smallest up."""
    found: list[Candidate] = []
    for one in sorted(candidates, key=lambda one: (one.n_bytes, one.error)):
        if not found or one.error < found[-1].error:
            found.append(one)
    return found


def allocate(tensors: Sequence[Choices], budget: int) -> list[Candidate]:
    """One candidate for each tensor, together at most `budget` bytes.

    Equal gains go to the earlier tensor, so that the result does not depend on anything else.

    Raises:
        ValueError: even the smallest candidates take more.
    """
    ladders = [useful(choices) for choices in tensors]
    left = budget - sum(ladder[0].n_bytes for ladder in ladders)
    if left < 0:
        raise ValueError(f"the smallest types take {-left} bytes more than {budget}")
    steps = _climb(ladders, left)
    return [ladder[step] for ladder, step in zip(ladders, steps, strict=True)]


def _climb(ladders: Sequence[Choices], left: int) -> list[int]:
    """The candidate of each ladder that is reached with `left` bytes more than the lowest ones take."""
    steps = [0] * len(ladders)
    upgrades = [upgrade for index, ladder in enumerate(ladders) for upgrade in _upgrades(index, ladder, 0)]
    heapq.heapify(upgrades)
    while upgrades:
        upgrade = heapq.heappop(upgrades)
        tensor = upgrade.tensor
        if upgrade.before != steps[tensor] or upgrade.n_bytes > left:  # what does not fit now never will
            continue
        steps[tensor] = upgrade.after
        left -= upgrade.n_bytes
        for later in _upgrades(tensor, ladders[tensor], upgrade.after):
            heapq.heappush(upgrades, later)
    return steps


@dataclass(frozen=True, order=True)
class _Upgrade:
    """From candidate `before` of a tensor to `after`; the order is that in which they are made.

    loss: error more (so below zero) for each of the bytes more.
    """

    loss: float
    tensor: int
    after: int
    before: int
    n_bytes: int


def _upgrades(tensor: int, ladder: Choices, step: int) -> Iterator[_Upgrade]:
    now = ladder[step]
    for after, one in enumerate(ladder[step + 1 :], start=step + 1):
        n_bytes = one.n_bytes - now.n_bytes
        yield _Upgrade((one.error - now.error) / n_bytes, tensor, after, step, n_bytes)

"""How long one optimizer step takes here: a short measurement on real batches, before the run.

A small pass comes first and is not counted: it compiles the kernels and touches memory. Then one row of the batch is
timed, and the whole batch too where that fits the budget; else the time of the rows is scaled up, which is fair because
the rows of a batch do not see each other.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.model.module import PassKey
from entrenar_core.optim.base import Optimizer
from entrenar_core.stages.plan_types import TimePlan
from entrenar_core.train.parts import Learner

WARM_UP_TOKENS = 16
BUDGET_SECONDS = 20.0
"""A pass that is expected to take longer than what is left of this is not made."""


@dataclass(frozen=True)
class StepTime:
    """Seconds for forward and backward of one token (padding included), for one optimizer update, and how it was found.

    `padded_tokens` are the positions of the pass that was timed.
    """

    seconds_per_token: float
    update_seconds: float
    padded_tokens: int
    method: str


def measure_step(
    learner: Learner, batch: Batch, optimizer: Optimizer | None = None, *, budget: float = BUDGET_SECONDS
) -> StepTime:
    """Time forward and backward on a typical batch, and the optimizer's update if there is one.

    The parameters keep their values, but the state of the optimizer is spoilt: do not train on with it.

    Args:
        learner: as it will be trained.
        batch: with at least one supervised position.
        optimizer: over the learner's parameters; it is run once at a learning rate of 0.
        budget: seconds that the measurement may take, about.
    """
    started = time.perf_counter()
    _pass_seconds(learner, part_of(batch, 1, WARM_UP_TOKENS))
    rows, width = batch.tokens.shape
    row = part_of(batch, 1, width)
    _pass_seconds(learner, row)  # first touch of memory
    seconds, timed = _pass_seconds(learner, row), 1
    left = budget - (time.perf_counter() - started)
    if rows > 1 and seconds * rows <= left:
        first = _pass_seconds(learner, batch)
        again = _pass_seconds(learner, batch) if 2 * first <= left else first
        seconds, timed = min(first, again), rows
    update = 0.0 if optimizer is None else _update_seconds(optimizer, learner.backend)
    for parameter in learner.trainable().values():
        parameter.zero_grad()
    method = "measured on one batch" if timed == rows else f"scaled up from 1 of {rows} rows"
    return StepTime(seconds / (timed * width), update, timed * width, f"{method} of {width} positions")


def time_plan(measured: StepTime, *, steps: int, padded_tokens: float, tokens: float) -> TimePlan:
    """The time of a run.

    Args:
        measured: from `measure_step`.
        steps: optimizer steps.
        padded_tokens: positions of all batches of a mean step, padding included.
        tokens: of these, those that are not padding.
    """
    seconds = measured.seconds_per_token * padded_tokens + measured.update_seconds
    return TimePlan(seconds, steps * seconds, tokens / seconds if seconds else 0.0, measured.method)


def part_of(batch: Batch, rows: int, width: int) -> Batch:
    """The first rows and positions of a batch; one position is supervised at least, so that there is a loss."""
    corner = (slice(0, rows), slice(0, width))
    labels = batch.labels[corner].copy()
    places = None if batch.places is None else batch.places[corner].copy()
    if (labels == IGNORE).all():
        labels[0, -1], place = _any_target(batch)
        if places is not None:
            places[0, -1] = place
    return replace(
        batch,
        tokens=batch.tokens[corner],
        labels=labels,
        positions=batch.positions[corner],
        starts=batch.starts[corner],
        n_tokens=min(batch.n_tokens, labels.size),
        n_supervised=int((labels != IGNORE).sum()),
        values=None if batch.values is None else batch.values[corner],
        places=places,
    )


def _any_target(batch: Batch) -> tuple[int, int]:
    """Label and place of the first supervised position; 0 and -1 where there is none."""
    supervised = np.flatnonzero(batch.labels != IGNORE)
    if not supervised.size:
        return 0, -1
    place = -1 if batch.places is None else int(batch.places.flat[supervised[0]])
    return int(batch.labels.flat[supervised[0]]), place


def _pass_seconds(learner: Learner, batch: Batch) -> float:
    started = time.perf_counter()
    with Tape() as tape:
        loss = learner.loss(batch, 1.0 / batch.n_supervised, PassKey(0, 0, 0))
    tape.backward(loss)
    learner.backend.synchronize()
    return time.perf_counter() - started


def _update_seconds(optimizer: Optimizer, backend: Backend) -> float:
    optimizer.step(0.0)  # first touch of its arrays
    backend.synchronize()
    started = time.perf_counter()
    optimizer.step(0.0)
    backend.synchronize()
    return time.perf_counter() - started

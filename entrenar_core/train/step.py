"""The gradient of one optimizer step: micro-batches from the cursor, their losses scaled by the tokens of them all.

Each micro-batch adds 1/N times its summed loss, N being the supervised tokens of the whole step, so the gradient that
accumulates is that of one large batch, whatever the sizes of its parts. Nothing is read of a device until the step's
update is queued, which does nothing if a loss or the gradient's norm is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.base import Array
from entrenar_core.data.batch import Batch
from entrenar_core.errors import TrainingError
from entrenar_core.model.module import PassKey
from entrenar_core.train.anomaly import Pass, non_finite_error
from entrenar_core.train.parts import BatchSource, Learner
from entrenar_core.train.state import TrainState

_HINT = (
    "lower optimizer.lr, add warm-up, or look at the data of this step; the parameters are those of the step before,"
    " and --overwrite begins again"
)


@dataclass(frozen=True)
class StepBatches:
    """The micro-batches of one step, and where the cursor stands after them."""

    step: int
    first: int
    epoch: int
    batches: Sequence[Batch]
    next_epoch: int
    next_batch: int

    @property
    def tokens(self) -> int:
        return sum(batch.n_tokens for batch in self.batches)

    @property
    def supervised_tokens(self) -> int:
        return sum(batch.n_supervised for batch in self.batches)

    def passes(self, seed: int) -> list[Pass]:
        """The forward passes of the step; a micro-batch without a supervised token needs none."""
        scale = 1.0 / self.supervised_tokens
        return [
            Pass(f"epoch {self.epoch}, batch {self.first + micro}", batch, scale, PassKey(seed, self.step, micro))
            for micro, batch in enumerate(self.batches)
            if batch.n_supervised
        ]


def take_batches(source: BatchSource, state: TrainState, grad_accum: int) -> StepBatches:
    """The next `grad_accum` batches of the epoch, or as many as it still has."""
    count = source.batches_per_epoch(state.epoch)
    stop = min(state.batch + grad_accum, count)
    batches = [source.batch(state.epoch, index) for index in range(state.batch, stop)]
    ends_epoch = stop == count
    return StepBatches(
        step=state.step,
        first=state.batch,
        epoch=state.epoch,
        batches=batches,
        next_epoch=state.epoch + 1 if ends_epoch else state.epoch,
        next_batch=0 if ends_epoch else stop,
    )


@dataclass(frozen=True)
class StepLosses:
    """The scaled loss of each pass of a step, float64 scalars of the backend: to read one is to wait for its device."""

    passes: Sequence[Pass]
    losses: Sequence[Array]

    def total(self) -> Array:
        """The mean loss over the step's supervised tokens, which nobody has read yet."""
        total = self.losses[0]
        for loss in self.losses[1:]:
            total = total + loss
        return total


def accumulate_gradient(
    learner: Learner, passes: Sequence[Pass], should_stop: Callable[[], bool] = lambda: False
) -> StepLosses | None:
    """Leave the gradient of the step on the parameters; None if `should_stop` said so between two micro-batches."""
    losses = []
    for one in passes:
        if should_stop():
            return None
        with Tape() as tape:
            loss = learner.loss(one.batch, one.scale, one.key)
        tape.backward(loss)
        losses.append(loss.data)
    return StepLosses(passes, losses)


def step_error(learner: Learner, done: StepLosses, norm: float, step: int) -> TrainingError:
    """Why a step of which a loss or the norm is not finite was not taken; the message names the op."""
    for one, loss in zip(done.passes, done.losses, strict=True):
        value = float(learner.backend.to_host(loss))
        if not math.isfinite(value):
            return non_finite_error(learner, [one], f"the loss at step {step + 1}", value, _HINT)
    return non_finite_error(learner, done.passes, f"the norm of the gradient at step {step + 1}", norm, _HINT)

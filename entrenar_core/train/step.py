"""The gradient of one optimizer step: micro-batches from the cursor, their losses scaled by the tokens of them all.

Each micro-batch adds 1/N times its summed loss, N being the supervised tokens of the whole step, so the gradient that
accumulates is that of one large batch, whatever the sizes of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.data.batch import Batch
from entrenar_core.model.module import PassKey
from entrenar_core.optim.clip import global_norm
from entrenar_core.train.anomaly import Pass, non_finite_error
from entrenar_core.train.parts import BatchSource, ExplainedLearner, Learner
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
class StepGradient:
    """The mean loss over the step's supervised tokens, the global norm of its gradient, and the parts of the loss."""

    loss: float
    norm: float
    parts: Mapping[str, float] = field(default_factory=dict)


def accumulate_gradient(
    learner: Learner,
    parameters: dict[str, Tensor],
    passes: Sequence[Pass],
    step: int,
    should_stop: Callable[[], bool] = lambda: False,
) -> StepGradient | None:
    """Leave the gradient of the step on the parameters; None if `should_stop` said so between two micro-batches.

    Raises:
        TrainingError: a loss or the norm is not finite; the message names the op.
    """
    total = 0.0
    for one in passes:
        if should_stop():
            return None
        with Tape() as tape:
            loss = learner.loss(one.batch, one.scale, one.key)
        value = float(learner.backend.to_host(loss.data))
        if not math.isfinite(value):
            raise non_finite_error(learner, [one], f"the loss at step {step + 1}", value, _HINT)
        tape.backward(loss)
        total += value
    norm = global_norm(parameters)
    if not math.isfinite(norm):
        raise non_finite_error(learner, passes, f"the norm of the gradient at step {step + 1}", norm, _HINT)
    parts = learner.explain() if isinstance(learner, ExplainedLearner) else {}
    return StepGradient(total, norm, parts)

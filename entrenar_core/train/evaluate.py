"""The validation loss: the mean over all supervised tokens of a data set, without a tape and without dropout."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from entrenar_core.autograd.tape import no_grad
from entrenar_core.errors import DataError
from entrenar_core.train.anomaly import Pass, non_finite_error
from entrenar_core.train.parts import BatchSource, Learner

_HINT = "the model or the validation data hold numbers that overflow; look at the batch that is named"


@dataclass(frozen=True)
class MeanLoss:
    """Nats per supervised token, and how many of them there were."""

    loss: float
    supervised_tokens: int


def mean_loss(
    learner: Learner, source: BatchSource, should_stop: Callable[[], bool] = lambda: False
) -> MeanLoss | None:
    """The loss over epoch 0 of `source`, or None if `should_stop` said so before the end.

    Raises:
        DataError: no token is supervised.
        TrainingError: the loss of a batch is not finite; the message names the op.
    """
    total, count = 0.0, 0
    for index in range(source.batches_per_epoch(0)):
        if should_stop():
            return None
        batch = source.batch(0, index)
        if batch.n_supervised == 0:
            continue
        with no_grad():
            loss = learner.loss(batch, 1.0, None)
        value = float(learner.backend.to_host(loss.data))
        if not math.isfinite(value):
            one = Pass(f"validation batch {index}", batch, 1.0, None)
            raise non_finite_error(learner, [one], "the validation loss", value, _HINT)
        total += value
        count += batch.n_supervised
    if count == 0:
        raise DataError("the validation data have no supervised token")
    return MeanLoss(total / count, count)

"""The validation loss: the mean over all supervised tokens of a data set, without a tape and without dropout.

A learner with a head is measured in the same pass: its answers are kept, and the metrics are those of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from entrenar_core.autograd.tape import no_grad
from entrenar_core.data.batch import Batch
from entrenar_core.errors import DataError
from entrenar_core.model.head_metrics import Answers
from entrenar_core.train.anomaly import Pass, non_finite_error
from entrenar_core.train.parts import BatchSource, Learner, MeasuredLearner

_HINT = "the model or the validation data hold numbers that overflow; look at the batch that is named"


@dataclass(frozen=True)
class MeanLoss:
    """The mean loss of a supervised token (nats, for a language model), how many there were, and metrics of a head.

    A metric is None where the data do not define it.
    """

    loss: float
    supervised_tokens: int
    metrics: Mapping[str, float | None] = field(default_factory=dict)


def mean_loss(
    learner: Learner, source: BatchSource, should_stop: Callable[[], bool] = lambda: False
) -> MeanLoss | None:
    """The loss over epoch 0 of `source`, or None if `should_stop` said so before the end.

    Raises:
        DataError: no token is supervised.
        TrainingError: the loss of a batch is not finite; the message names the op.
    """
    total, count = 0.0, 0
    answers: list[Answers] = []
    for index in range(source.batches_per_epoch(0)):
        if should_stop():
            return None
        batch = source.batch(0, index)
        if batch.n_supervised == 0:
            continue
        value = _loss_of(learner, batch, answers)
        if not math.isfinite(value):
            one = Pass(f"validation batch {index}", batch, 1.0, None)
            raise non_finite_error(learner, [one], "the validation loss", value, _HINT)
        total += value
        count += batch.n_supervised
    if count == 0:
        raise DataError("the validation data have no supervised token")
    metrics = learner.measure(answers) if isinstance(learner, MeasuredLearner) else {}
    return MeanLoss(total / count, count, metrics)


def _loss_of(learner: Learner, batch: Batch, answers: list[Answers]) -> float:
    """The summed loss of a batch; what a head says of it is added to `answers`."""
    with no_grad():
        if isinstance(learner, MeasuredLearner):
            loss, said = learner.loss_and_answers(batch, 1.0)
            answers.append(said)
        else:
            loss = learner.loss(batch, 1.0, None)
    return float(learner.backend.to_host(loss.data))

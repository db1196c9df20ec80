"""What to say when a number is no longer finite: the pass is run once more, slowly, to find the op that did it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from entrenar_core.autograd.tape import NonFiniteError, Tape
from entrenar_core.data.batch import Batch
from entrenar_core.errors import TrainingError
from entrenar_core.model.module import PassKey
from entrenar_core.train.parts import Learner


@dataclass(frozen=True)
class Pass:
    """One forward pass that can be run again: its batch, its loss scale and its key, and a name for messages."""

    name: str
    batch: Batch
    scale: float
    key: PassKey | None


def non_finite_error(learner: Learner, passes: Iterable[Pass], what: str, value: float, hint: str) -> TrainingError:
    """The error that says what is not finite, and which op of which pass made it so.

    Args:
        learner: whose parameters are as they were in the pass; its gradients are lost.
        passes: those that may have done it.
        what: the quantity and its place: "the loss at step 12".
        value: NaN or an infinity.
        hint: what to do next.
    """
    for one in passes:
        cause = _cause(learner, one)
        if cause is not None:
            error = TrainingError(f"{what} is {value}: {cause.message} ({one.name})", hint=hint)
            error.__cause__ = cause
            return error
    kind = "nan" if math.isnan(value) else "an infinity"
    return TrainingError(f"{what} is {value}: no single op made {kind}, it came from adding up", hint=hint)


def _cause(learner: Learner, one: Pass) -> NonFiniteError | None:
    _forget_gradients(learner)  # what they hold already may be the very thing that is looked for
    try:
        with Tape(detect_anomaly=True) as tape:
            loss = learner.loss(one.batch, one.scale, one.key)
        if one.key is not None:
            tape.backward(loss)
    except NonFiniteError as error:
        return error
    finally:
        _forget_gradients(learner)
    return None


def _forget_gradients(learner: Learner) -> None:
    for parameter in learner.trainable().values():
        parameter.zero_grad()

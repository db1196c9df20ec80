"""One optimizer step as `entrenar train` takes it."""

from __future__ import annotations

from typing import Any

from entrenar_core.data.batch import Batch
from entrenar_core.model.module import PassKey
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.clip import clip
from entrenar_core.train.anomaly import Pass
from entrenar_core.train.step import accumulate_gradient


def take_step(learner: Any, optimizer: Optimizer, batch: Batch, step: int, lr: float) -> float:
    """Loss, gradients, clipping at 1 and the update; the loss before it."""
    one = Pass("batch", batch, 1.0 / batch.n_supervised, PassKey(1, step, 0))
    done = accumulate_gradient(learner, [one])
    assert done is not None
    clipping = clip(optimizer.parameters, 1.0, done.total())
    is_taken = optimizer.step(lr, clipping)
    optimizer.zero_grad()
    found = clipping.read()
    if not is_taken:
        raise ValueError(f"loss {found.loss} and norm {found.norm} at step {step}")
    return found.loss

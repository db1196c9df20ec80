"""The two parts that the training loop is blind to: what is trained, and where batches come from.

Any objective fits that returns a scaled sum over supervised tokens: a language model's own loss, or a distillation loss
around one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.model.head_metrics import Answers, Metrics
from entrenar_core.model.module import PassKey


class Learner(Protocol):
    """What is trained; `entrenar_core.model.decoder.LanguageModel` is one."""

    @property
    def backend(self) -> Backend: ...

    def trainable(self) -> dict[str, Tensor]:
        """The parameters to train, by name."""
        ...

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        """A float64 scalar: `scale` times the sum of the losses of the batch's supervised tokens.

        The key names the pass, so that random masks can be drawn again; None means evaluation.
        """
        ...


@runtime_checkable
class ExplainedLearner(Learner, Protocol):
    """A learner whose loss has parts; `entrenar_core.distill.learner.DistilledModel` is one."""

    def explain(self) -> Mapping[str, float]:
        """The mean of each part over the supervised tokens of the training passes since the last call."""
        ...


@runtime_checkable
class MeasuredLearner(Learner, Protocol):
    """A learner whose answers can be right or wrong; `entrenar_core.model.heads.SequenceModel` is one."""

    def loss_and_answers(self, batch: Batch, scale: float) -> tuple[Tensor, Answers]:
        """`loss` in evaluation and the answers that it judges, from one forward pass."""
        ...

    def measure(self, answers: Sequence[Answers]) -> Metrics:
        """Metrics over the answers of all batches, at least one answer in all."""
        ...


class BatchSource(Protocol):
    """Batches by (epoch, index), the same for the same pair; `entrenar_core.data.loader.Loader` is one.

    A source that streams gives segments of its data in place of epochs.
    """

    def batches_per_epoch(self, epoch: int) -> int: ...

    def epochs_done(self, epoch: int, batches: int) -> float:
        """How often all data have been gone through after `batches` batches of `epoch`."""
        ...

    def batch(self, epoch: int, index: int) -> Batch: ...


def steps_per_epoch(source: BatchSource, epoch: int, grad_accum: int) -> int:
    """Optimizer steps of one epoch; the last may have fewer than `grad_accum` batches."""
    return -(-source.batches_per_epoch(epoch) // grad_accum)


def steps_of_epochs(source: BatchSource, epochs: int, grad_accum: int) -> int:
    """Optimizer steps of the first `epochs` epochs."""
    return sum(steps_per_epoch(source, epoch, grad_accum) for epoch in range(epochs))

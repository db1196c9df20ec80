"""`entrenar eval --task perplexity`: how well a model predicts texts, or the answers of pairs and chats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.data.loader import Loader
from entrenar_core.events import Progress, Reporter
from entrenar_core.stages.evaluated_data import open_text, text_loader
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_report import Measure
from entrenar_core.stages.evaluation_settings import EvaluationSettings
from entrenar_core.stages.kernels import compiling_said
from entrenar_core.train.evaluate import mean_loss


@dataclass(frozen=True)
class SupervisedPerplexity:
    """exp of the mean loss (nats) of the tokens that training would learn; the loss is its validation loss."""

    perplexity: float
    loss: float
    tokens: int

    @property
    def figures(self) -> Mapping[str, float | None]:
        """What models are compared by."""
        return {"perplexity": self.perplexity, "loss": self.loss}

    def as_json(self) -> Mapping[str, object]:
        """Its figures and the number of tokens."""
        return {**self.figures, "tokens": self.tokens}


def prepare_perplexity(model: EvaluatedModel, data: str, settings: EvaluationSettings, reporter: Reporter) -> Measure:
    """Tokenize the data for a model.

    Raises:
        EntrenarError: the data cannot be used.
    """
    return partial(_measure, model, text_loader(model, open_text(model, data, settings, reporter), reporter), reporter)


def _measure(model: EvaluatedModel, loader: Loader, reporter: Reporter, backend: Backend) -> SupervisedPerplexity:
    with compiling_said("the model", reporter):
        found = mean_loss(model.load(backend), _Reported(loader, reporter))
    assert found is not None
    return SupervisedPerplexity(_exp(found.loss), found.loss, found.supervised_tokens)


@dataclass(frozen=True)
class _Reported:
    """A loader that says how far it is."""

    loader: Loader
    reporter: Reporter

    def batches_per_epoch(self, epoch: int) -> int:
        return self.loader.batches_per_epoch(epoch)

    def epochs_done(self, epoch: int, batches: int) -> float:
        return self.loader.epochs_done(epoch, batches)

    def batch(self, epoch: int, index: int) -> Batch:
        self.reporter.emit(Progress("evaluating", index + 1, self.batches_per_epoch(epoch)))
        return self.loader.batch(epoch, index)


def _exp(loss: float) -> float:
    return math.exp(loss) if loss < 700 else math.inf

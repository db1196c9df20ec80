"""A language model that answers with a class or a number instead of the next word.

A small linear head reads the final hidden state of a document's last token, as Hugging Face's models for sequence
classification do. The output matrix of the language model takes no part, so it is not trained either.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.autograd.ops import embedding, loss, shape
from entrenar_core.autograd.tape import no_grad, scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.data.batch import Batch
from entrenar_core.data.task_columns import TARGET_ROLES, Task
from entrenar_core.errors import ModelError
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.head_metrics import Answers, Metrics, classification_metrics, joined, regression_metrics
from entrenar_core.model.initialize import random_weight
from entrenar_core.model.layers import Linear
from entrenar_core.model.module import Module, PassKey

HEAD = "cls.output"
"""GGUF's name for the layer, without its suffix."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class HeadSpec:
    """What a head answers, and to which columns that belongs.

    Attributes:
        task: classification or regression.
        classes: the names of the classes by id; empty for regression.
        text_column: what is read.
        target_column: what is asked for: the label or the number.
        mean, std: of the training targets; a regression head answers in these units.
    """

    task: Task
    classes: tuple[str, ...]
    text_column: str
    target_column: str
    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        if self.task not in TARGET_ROLES:
            raise ModelError(f"the task {self.task} needs no head")
        if self.is_classification and (len(self.classes) < 2 or len(set(self.classes)) < len(self.classes)):
            raise ModelError(f"a head tells at least two different classes apart, not {list(self.classes)}")
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise ModelError(f"targets of mean {self.mean} and standard deviation {self.std} cannot be standardised")

    @property
    def is_classification(self) -> bool:
        return self.task is Task.CLASSIFICATION

    @property
    def n_outputs(self) -> int:
        """Rows of the head: one for each class, or one."""
        return len(self.classes) if self.is_classification else 1

    def probabilities(self, outputs: np.ndarray) -> Float64Array:
        """softmax [n, C] of logits [n, C]."""
        logits = outputs.astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: Float64Array = exponentials / exponentials.sum(axis=1, keepdims=True)
        return found

    def numbers(self, outputs: np.ndarray) -> Float64Array:
        """Predictions [n] in the units of the data, of outputs [n, 1]."""
        found: Float64Array = outputs[:, 0].astype(np.float64) * self.std + self.mean
        return found

    def standardised(self, values: np.ndarray) -> Float64Array:
        """Targets [n] in the units of the head."""
        found: Float64Array = (values.astype(np.float64) - self.mean) / self.std
        return found

    def metrics(self, answers: Answers) -> Metrics:
        """How good the answers are; at least one is needed."""
        return classification_metrics(answers) if self.is_classification else regression_metrics(answers)


class SequenceModel(Module):
    """A language model with a head; fulfils `entrenar_core.train.parts.MeasuredLearner`.

    Args:
        backbone: trained, adapted or frozen, as it comes; an output matrix of its own is frozen.
        spec: of the head.
        weight: ``cls.output.weight`` [C, D].
        bias: ``cls.output.bias`` [C].

    Raises:
        ModelError: the head does not fit the backbone or its spec.
    """

    def __init__(self, backbone: LanguageModel, spec: HeadSpec, weight: Tensor, bias: Tensor) -> None:
        expected = (spec.n_outputs, backbone.spec.hidden_size)
        if weight.shape != expected or bias.shape != expected[:1]:
            raise ModelError(
                f"a head of {list(weight.shape)} with a bias of {list(bias.shape)} does not fit: the model has hidden"
                f" states of {expected[1]}, and the task has {expected[0]} outputs"
            )
        self.backend: Backend = backbone.backend
        self.spec = spec
        self.backbone = backbone
        self.head = Linear(HEAD, weight, bias)
        if not backbone.spec.tie_embeddings:
            backbone.output.freeze()

    def outputs(self, batch: Batch, key: PassKey | None = None) -> Tensor:
        """Logits [n, C], or standardised numbers [n, 1], of the batch's n documents from left to right, row by row.

        Raises:
            ModelError: a token id outside the vocabulary.
        """
        hidden = self.backbone.hidden_states(batch.tokens, batch.positions, batch.starts, key)
        asked = np.flatnonzero(batch.labels.reshape(-1) >= 0)
        with scope(HEAD):
            states = shape.reshape(hidden, (-1, self.backbone.spec.hidden_size))
            last = embedding.embedding(states, self.backend.asarray(asked, np.int32))  # rows by index
        return self.head.forward(last, key)

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        """scale · the sum over documents of -log p(class), or of the squared error in standard deviations.

        A float64 scalar; key None means evaluation.

        Raises:
            ModelError: a token id outside the vocabulary, or a class that the head does not have.
        """
        return self._loss_of(self.outputs(batch, key), batch, scale)

    def loss_and_answers(self, batch: Batch, scale: float) -> tuple[Tensor, Answers]:
        """`loss` in evaluation, and the answers it judges, from one pass without a tape."""
        with no_grad():
            outputs = self.outputs(batch)
            return self._loss_of(outputs, batch, scale), self._answers(outputs.numpy(), batch)

    def measure(self, answers: Sequence[Answers]) -> Metrics:
        """Metrics over the answers of all batches."""
        return self.spec.metrics(joined(answers))

    def head_values(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight [C, D] and bias [C], on the host."""
        assert self.head.bias is not None
        return self.head.weight.numpy(), self.head.bias.numpy()

    def _loss_of(self, outputs: Tensor, batch: Batch, scale: float) -> Tensor:
        with scope(HEAD):
            if self.spec.is_classification:
                return loss.cross_entropy(outputs, self._class_ids(batch), scale)
            targets = self.backend.asarray(self.spec.standardised(_values(batch)))
            return loss.squared_error(shape.reshape(outputs, (-1,)), targets, scale)

    def _answers(self, outputs: np.ndarray, batch: Batch) -> Answers:
        if self.spec.is_classification:
            return Answers(outputs.argmax(axis=1), self._class_ids(batch).astype(np.int64))
        return Answers(self.spec.numbers(outputs), _values(batch))

    def _class_ids(self, batch: Batch) -> npt.NDArray[np.int32]:
        ids = batch.labels[batch.labels >= 0]
        if ids.size and ids.max() >= self.spec.n_outputs:
            raise ModelError(f"class {ids.max()} for a head of {self.spec.n_outputs} classes")
        return ids


def _values(batch: Batch) -> Float64Array:
    if batch.values is None:
        raise ModelError("the batch has no numbers for a regression head to learn")
    return batch.values[batch.labels >= 0]


def new_head(backbone: LanguageModel, spec: HeadSpec, seed: int) -> SequenceModel:
    """The model with a trainable head: a weight drawn from N(0, 0.02²) by (seed, name), a bias of zeros.

    Adapters must be in the backbone already, for injecting them freezes what is there.
    """
    sizes = {f"{HEAD}.weight": (spec.n_outputs, backbone.spec.hidden_size), f"{HEAD}.bias": (spec.n_outputs,)}
    start = [random_weight(name, size, backbone.spec.num_layers, seed) for name, size in sizes.items()]
    return attach_head(backbone, spec, *start)


def attach_head(backbone: LanguageModel, spec: HeadSpec, weight: np.ndarray, bias: np.ndarray) -> SequenceModel:
    """The model with a trainable head of these values, weight [C, D] and bias [C].

    Raises:
        ModelError: see `SequenceModel`.
    """
    tensors = [
        Tensor(backbone.backend.asarray(array), backbone.backend, requires_grad=True, name=f"{HEAD}.{part}")
        for part, array in (("weight", weight), ("bias", bias))
    ]
    return SequenceModel(backbone, spec, *tensors)

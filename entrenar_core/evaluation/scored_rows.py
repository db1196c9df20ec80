"""Logits of the positions that are scored, some rows at a time: those of a whole batch never exist together."""

from __future__ import annotations

from collections.abc import Iterator

from entrenar_core.autograd.ops.loss import supervised
from entrenar_core.autograd.tape import no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.data.batch import Batch
from entrenar_core.model.decoder import LanguageModel


class ScoredRows:
    """The final hidden states [M, D] of a batch's M scored positions, row by row of the batch from left to right.

    Raises:
        ModelError: a token or label outside the vocabulary.
    """

    def __init__(self, model: LanguageModel, batch: Batch) -> None:
        model.check_labels(batch)
        self.model = model
        scored, self.labels = supervised(model.backend, batch.labels.reshape(-1))
        with no_grad():
            hidden = model.hidden_states(batch.tokens, batch.positions, batch.starts).data
        self._states = model.backend.take_rows(hidden.reshape(-1, hidden.shape[-1]), scored)

    def __len__(self) -> int:
        return int(self.labels.shape[0])

    def logits(self, part: slice) -> Array:
        """[m, V] of some of the rows; the caller may overwrite them."""
        with no_grad():
            return self.model.output.forward(Tensor(self._states[part], self.model.backend), None).data


def row_parts(count: int, *models: LanguageModel) -> Iterator[slice]:
    """`count` rows in parts whose logits each of the models may hold at a time."""
    most = min(_rows_at_a_time(model) for model in models)
    for start in range(0, count, most):
        yield slice(start, min(start + most, count))


def _rows_at_a_time(model: LanguageModel) -> int:
    operand = model.output.operand()
    return model.backend.loss_rows(model.spec.vocab_size, None if isinstance(operand, Tensor) else operand)

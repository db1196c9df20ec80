"""Teachers: frozen models that say of each supervised position how likely every token is.

A forward pass gives each teacher's final states; its logits, which would be large, are computed when a chunk of rows is
asked for. Several teachers speak as one: the mixture Σ wᵢ pᵢ of their distributions at the temperature (Hinton et al.
2015), or for the squared error of logits the mean Σ wᵢ zᵢ. By confidence, wᵢ is multiplied by exp(-Hᵢ), Hᵢ being the
entropy of the teacher's prediction at that position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from entrenar_core.autograd.ops.distillation import DenseChunk, TeacherRows
from entrenar_core.autograd.ops.loss import supervised
from entrenar_core.autograd.tape import no_grad
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.data.batch import Batch
from entrenar_core.distill.vocabulary import Int32Array, SharedVocabulary
from entrenar_core.errors import ModelError
from entrenar_core.model.decoder import LanguageModel, Taps

Combination = Literal["mean", "confidence"]


class TeacherSignal(Protocol):
    """What is known of a batch's supervised positions, from teachers that run or from what they once said."""

    def rows(self, batch: Batch) -> TeacherRows:
        """One row for each label of the batch, in their order."""
        ...


@dataclass(frozen=True)
class Teacher:
    """One teacher. name: for messages. weight: its share before they are made to sum to one."""

    name: str
    model: LanguageModel
    weight: float = 1.0


class Teachers:
    """Teachers that run; fulfils `TeacherSignal`.

    Args:
        teachers: at least one, all on one backend.
        vocabulary: what their tokens have in common with the student's.
        params: kind of divergence and temperature.
        combine: how several speak as one.
    """

    def __init__(
        self,
        teachers: Sequence[Teacher],
        vocabulary: SharedVocabulary,
        params: DistillationParams,
        combine: Combination = "mean",
    ) -> None:
        total = sum(one.weight for one in teachers)
        self.teachers = tuple(teachers)
        self.vocabulary = vocabulary
        self.params = params
        self.combine = combine
        self.shares = [one.weight / total for one in teachers]
        first = teachers[0].model
        self.backend: Backend = first.backend

    def rows(self, batch: Batch, taps: Taps | None = None) -> TeacherRows:
        """Run every teacher over the batch.

        Args:
            batch: in the student's tokens.
            taps: filled by the first teacher.

        Raises:
            ModelError: a teacher computes numbers that are not finite.
        """
        asked, _ = supervised(self.backend, batch.labels.reshape(-1))
        states = []
        for index, one in enumerate(self.teachers):
            tokens = self.vocabulary.maps[index].read_as[batch.tokens]
            with no_grad():
                hidden = one.model.hidden_states(
                    tokens, batch.positions, batch.starts, taps=taps if index == 0 else None
                )
            flat = hidden.data.reshape(-1, one.model.spec.hidden_size)
            if not self.backend.all_finite(self.backend.cast(flat, self.backend.dtype)):
                raise ModelError(
                    "the teacher computes numbers that are not finite", where=one.name, hint="its weights are damaged"
                )
            states.append(self.backend.take_rows(flat, asked))
        return _Rows(self, states, self._weights(batch))

    def _weights(self, batch: Batch) -> Array | None:
        """1 for each label whose prediction can be compared; 0 if a teacher lacks it, or the token it follows."""
        is_asked = batch.labels >= 0
        comparable = np.ones(int(is_asked.sum()), np.float32)
        for one in self.vocabulary.maps:
            if one.shared < one.n_tokens:
                comparable *= one.has(batch.tokens[is_asked]) & one.has(batch.labels[is_asked])
        return None if comparable.all() else self.backend.asarray(comparable)


@dataclass(frozen=True)
class _Rows:
    """The final states [M, D] of each teacher for the M labels of a batch; fulfils `TeacherRows`."""

    owner: Teachers
    states: Sequence[Array]
    weights: Array | None

    def chunk(self, part: slice) -> DenseChunk:
        """Log-probabilities (or logits) [m, n] of the shared tokens."""
        owner = self.owner
        values = [self._values(index, part) for index in range(len(self.states))]
        kept = None if self.weights is None else self.weights[part]
        if len(values) == 1:
            return DenseChunk(values[0], kept)
        shares = owner.shares
        logs = [owner.backend.xp.full(len(values[0]), math.log(share), np.float64) for share in shares]
        if owner.combine == "confidence":
            logs = _by_confidence(owner, values, shares)
        return DenseChunk(_mixed(owner, values, logs), kept)

    def _values(self, index: int, part: slice) -> Array:
        owner, one = self.owner, self.owner.teachers[index]
        logits = owner.backend.linear(self.states[index][part], _matrix(one), owner.backend.dtype)
        values = _columns(owner.backend, logits, owner.vocabulary.teacher_columns[index], owner.vocabulary.n)
        if owner.params.kind != "logit_mse":
            owner.backend.log_softmax(values, owner.params.temperature)
        return values


def _matrix(teacher: Teacher) -> WeightHandle:
    return teacher.model.output.frozen_handle()


def _columns(backend: Backend, logits: Array, columns: Int32Array | None, n: int) -> Array:
    """The shared columns of logits [m, V], contiguous."""
    if columns is not None:
        return backend.take_columns(logits, backend.asarray(columns, np.int32))
    return logits if logits.shape[1] == n else backend.xp.ascontiguousarray(logits[:, :n])


def _by_confidence(owner: Teachers, values: Sequence[Array], shares: Sequence[float]) -> list[Array]:
    """log wᵢ [m] of each teacher, wᵢ ∝ shareᵢ·exp(-Hᵢ), which sum to one for each row."""
    xp = owner.backend.xp
    found = []
    for one, share in zip(values, shares, strict=True):
        log_p = one
        if owner.params.kind == "logit_mse":
            log_p = one.copy()
            owner.backend.log_softmax(log_p, 1.0)
        entropy = -(xp.exp(log_p) * log_p).sum(axis=1, dtype=np.float64)
        found.append(math.log(share) - entropy)
    total = found[0]
    for one in found[1:]:
        total = xp.logaddexp(total, one)
    return [one - total for one in found]


def _mixed(owner: Teachers, values: Sequence[Array], logs: Sequence[Array]) -> Array:
    """log Σ wᵢ pᵢ of log pᵢ [m, n] and log wᵢ [m]; of logits Σ wᵢ zᵢ."""
    xp = owner.backend.xp
    if owner.params.kind == "logit_mse":
        mixed = xp.zeros_like(values[0])
        for one, log_share in zip(values, logs, strict=True):
            mixed += one * xp.exp(log_share)[:, None].astype(one.dtype)
        return mixed
    mixed = values[0] + logs[0][:, None].astype(values[0].dtype)
    for one, log_share in zip(values[1:], logs[1:], strict=True):
        mixed = xp.logaddexp(mixed, one + log_share[:, None].astype(one.dtype), out=mixed)
    return mixed

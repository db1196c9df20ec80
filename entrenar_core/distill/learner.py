"""What is trained when a student learns from teachers: α·T²·D(teacher, student) + (1-α)·cross-entropy, and layers.

The validation loss is the cross-entropy on the data alone, so that runs with and without a teacher can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from entrenar_core.autograd.ops import elementwise, shape
from entrenar_core.autograd.ops.distillation import LossSums, TeacherRows, linear_distillation
from entrenar_core.autograd.tape import scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.data.batch import Batch
from entrenar_core.distill.layers import LayerMatching
from entrenar_core.distill.on_policy import OnPolicy
from entrenar_core.distill.teachers import Teachers, TeacherSignal
from entrenar_core.distill.vocabulary import SharedVocabulary
from entrenar_core.errors import ModelError
from entrenar_core.model.decoder import LanguageModel, Taps
from entrenar_core.model.module import PassKey


@dataclass
class _Sums:
    """Sums over positions since they were last asked for, and over how many."""

    data: LossSums = field(default_factory=LossSums)
    written: LossSums = field(default_factory=LossSums)
    layers: Array | float = 0.0


class DistilledModel:
    """A student with its teachers; fulfils `entrenar_core.train.parts.ExplainedLearner`.

    Args:
        student: trained, adapted or rounded, as it comes.
        signal: what the teachers say; `Teachers` where layers are matched or the student writes.
        vocabulary: the tokens that are compared.
        params: of the objective.
        matching: the layer-wise part.
        on_policy: when the student writes what it learns from.
    """

    def __init__(
        self,
        student: LanguageModel,
        signal: TeacherSignal,
        vocabulary: SharedVocabulary,
        params: DistillationParams,
        *,
        matching: LayerMatching | None = None,
        on_policy: OnPolicy | None = None,
    ) -> None:
        self.student = student
        self.backend: Backend = student.backend
        self.signal = signal
        self.params = params
        self.matching = matching
        self.on_policy = on_policy
        columns = vocabulary.columns
        self._columns = None if columns is None else self.backend.asarray(columns, np.int32)
        self._sums = _Sums()

    def trainable(self) -> dict[str, Tensor]:
        """The student's parameters that are trained, and the projections of its layers."""
        projections = {} if self.matching is None else self.matching.trainable()
        return {**self.student.trainable(), **projections}

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        """scale · the summed objective over the batch's supervised tokens, a float64 scalar.

        With key None, in evaluation, the student's cross-entropy alone. A batch that the student has written counts as
        much as the one it takes the place of, and has no cross-entropy: nobody says that its words are right.

        Raises:
            ModelError: a token id or label outside the vocabulary, or a teacher that computes no finite numbers.
        """
        if key is None or self._asks_nobody:
            return self.student.loss(batch, scale, key)
        written = self._written(batch, key)
        if written is None:
            return self._objective(batch, scale, key, self.params, self._sums.data)
        scale *= batch.n_supervised / written.n_supervised
        return self._objective(written, scale, key, replace(self.params, alpha=1.0), self._sums.written)

    def explain(self) -> Mapping[str, float]:
        """Means over supervised tokens since the last call: `divergence` (with T²), `cross_entropy` where it counts,
        and `layers` where these are matched."""
        sums, self._sums = self._sums, _Sums()
        rows, found = sums.data.rows + sums.written.rows, {}
        if rows:
            found["divergence"] = float(sums.data.divergence + sums.written.divergence) / rows
        if sums.data.rows and self.params.alpha < 1:
            found["cross_entropy"] = float(sums.data.cross_entropy) / sums.data.rows
        if rows and self.matching is not None:
            found["layers"] = float(sums.layers) / rows
        return found

    @property
    def _asks_nobody(self) -> bool:
        """Whether the teachers have no part in the objective."""
        return self.params.alpha == 0 and self.matching is None and self.on_policy is None

    def _written(self, batch: Batch, key: PassKey) -> Batch | None:
        if self.on_policy is None or not self.on_policy.is_due(key):
            return None
        return self.on_policy.written(self.student, batch, key)

    def _objective(
        self, batch: Batch, scale: float, key: PassKey, params: DistillationParams, sums: LossSums
    ) -> Tensor:
        self.student.check_labels(batch)
        taps = None if self.matching is None else self.matching.student_taps()
        rows, teacher_taps = self._teacher_rows(batch)
        hidden = self.student.hidden_states(batch.tokens, batch.positions, batch.starts, key, taps=taps)
        with scope("output"):
            total = linear_distillation(
                shape.reshape(hidden, (-1, self.student.spec.hidden_size)),
                self.student.output_operand(),
                batch.labels.reshape(-1),
                rows,
                params,
                scale,
                columns=self._columns,
                sums=sums,
            )
        if self.matching is None or taps is None or teacher_taps is None:
            return total
        layers = self.matching.loss(taps, teacher_taps, batch, scale, key.step)
        self._sums.layers = self._sums.layers + layers.data / scale
        return elementwise.add(total, layers)

    def _teacher_rows(self, batch: Batch) -> tuple[TeacherRows, Taps | None]:
        if self.matching is None:
            return self.signal.rows(batch), None
        if not isinstance(self.signal, Teachers):
            raise ModelError("hidden states are matched with teachers that run, not with a cache")
        taps = self.matching.teacher_taps()
        return self.signal.rows(batch, taps), taps

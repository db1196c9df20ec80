"""The objective as a whole: its parts, its limits, and what the training loop sees of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops.distillation import DenseChunk, TeacherRows
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.data.batch import Batch
from entrenar_core.distill.layers import LayerMatching, LayerPair, MatchingSettings
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.on_policy import OnPolicy
from entrenar_core.errors import ModelError
from entrenar_core.model.module import PassKey
from entrenar_core.train.parts import ExplainedLearner, MeasuredLearner
from tests.distill.worlds import (
    KEY,
    identity,
    learner,
    log_softmax,
    logits_at_targets,
    loss_and_gradients,
    model,
    shared,
    some_batch,
    teachers,
)
from tests.model import tiny
from tests.model.tiny import DOUBLE

KINDS = ("forward_kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "logit_mse")
SOFT = DistillationParams("forward_kl", temperature=2.0, alpha=0.5)


def one(
    student: Any = None, *, params: DistillationParams = SOFT, teacher: Any = None, **options: Any
) -> DistilledModel:
    return learner(
        model(1, trainable=True) if student is None else student,
        teachers([model(2) if teacher is None else teacher], params),
        **options,
    )


def test_the_loss_is_the_weighted_sum_of_divergence_and_cross_entropy() -> None:
    student, teacher, batch = model(1, trainable=True), model(2), some_batch()
    found, _ = loss_and_gradients(one(student, params=replace(SOFT, alpha=0.3), teacher=teacher), batch, 0.5)
    mine, theirs = (log_softmax(logits_at_targets(each, batch), 2.0) for each in (student, teacher))
    divergence = 4.0 * (np.exp(theirs) * (theirs - mine)).sum()
    labels = batch.labels[batch.labels >= 0]
    entropy = -log_softmax(logits_at_targets(student, batch))[np.arange(17), labels].sum()
    assert found == pytest.approx(0.5 * (0.3 * divergence + 0.7 * entropy))


@pytest.mark.parametrize("kind", KINDS)
def test_alpha_zero_is_the_plain_loss(kind: Any) -> None:
    student, batch = model(1, trainable=True), some_batch()
    plain, gradients = tiny.loss_and_gradients(student, batch, 0.25, KEY)
    found, mine = loss_and_gradients(one(student, params=DistillationParams(kind, 2.0, 0.0)), batch, 0.25)
    assert found == pytest.approx(plain)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(mine[name], gradient, atol=1e-10)


def test_with_alpha_zero_no_teacher_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    found = one(params=replace(SOFT, alpha=0.0))
    monkeypatch.setattr(found.signal, "rows", None)
    loss_and_gradients(found, some_batch())
    assert found.explain() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_that_equals_its_teacher_has_nothing_to_learn(kind: Any) -> None:
    found, gradients = loss_and_gradients(
        one(model(2, trainable=True), params=DistillationParams(kind, 3.0, 1.0)), some_batch()
    )
    assert found == pytest.approx(0, abs=1e-10)
    assert max(np.abs(gradient).max() for gradient in gradients.values()) < 1e-9


def test_with_alpha_one_labels_do_not_matter() -> None:
    batch = some_batch()
    labels = np.where(batch.labels >= 0, (batch.labels + 7) % 40, batch.labels)
    params = replace(SOFT, alpha=1.0)
    found, _ = loss_and_gradients(one(params=params), batch)
    other, _ = loss_and_gradients(one(params=params), replace(batch, labels=labels))
    assert found == pytest.approx(other)


def test_identical_teachers_teach_what_one_does() -> None:
    alone, gradients = loss_and_gradients(one(), some_batch())
    several = learner(model(1, trainable=True), teachers([model(2), model(2)], SOFT, [1.0, 3.0], combine="confidence"))
    together, same = loss_and_gradients(several, some_batch())
    assert together == pytest.approx(alone)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(same[name], gradient, atol=1e-10)


def test_evaluation_is_the_cross_entropy_of_the_data() -> None:
    student, batch = model(1, trainable=True), some_batch()
    found = one(student, params=replace(SOFT, alpha=1.0)).loss(batch, 1.0, None)
    assert float(found.data) == float(student.loss(batch, 1.0, None).data)


def test_the_parts_of_the_loss_are_means_since_they_were_last_asked_for() -> None:
    found, batch = one(params=replace(SOFT, alpha=0.3)), some_batch()
    total, _ = loss_and_gradients(found, batch, 1 / 17)
    parts = found.explain()
    assert total == pytest.approx(0.3 * parts["divergence"] + 0.7 * parts["cross_entropy"])
    assert found.explain() == {}
    loss_and_gradients(found, batch, 1 / 34)
    loss_and_gradients(found, batch, 1 / 34)
    assert found.explain() == pytest.approx(dict(parts))


def test_no_cross_entropy_is_told_where_it_does_not_count() -> None:
    found = one(params=replace(SOFT, alpha=1.0))
    total, _ = loss_and_gradients(found, some_batch(), 1 / 17)
    assert found.explain() == {"divergence": pytest.approx(total)}


def test_it_is_what_the_loop_trains() -> None:
    assert isinstance(one(), ExplainedLearner) and not isinstance(one(), MeasuredLearner)


def test_layers_are_added_and_their_matrices_are_trained() -> None:
    student, teacher = model(1, trainable=True), model(2, hidden_size=24)
    settings = MatchingSettings(weight=2.0)
    layers = LayerMatching([LayerPair(1, 1)], settings, student.spec, teacher.spec, DOUBLE, 1)
    plain, _ = loss_and_gradients(one(student, teacher=teacher), some_batch(), 1 / 17)
    both = one(student, teacher=teacher, matching=layers)
    found, gradients = loss_and_gradients(both, some_batch(), 1 / 17)
    parts = both.explain()
    assert found == pytest.approx(plain + parts["layers"]) and parts["layers"] > 0
    assert np.abs(gradients["distill.projection.1.weight"]).max() > 0
    assert gradients.keys() == both.trainable().keys()


def test_layers_need_teachers_that_run() -> None:
    class Remembered:
        def rows(self, batch: Batch) -> TeacherRows:
            raise AssertionError("not asked")

    student = model(1, trainable=True)
    layers = LayerMatching([LayerPair(1, 1)], MatchingSettings(), student.spec, student.spec, DOUBLE, 1)
    with pytest.raises(ModelError, match="cache"):
        DistilledModel(student, Remembered(), shared(), SOFT, matching=layers).loss(some_batch(), 1.0, KEY)


def test_tokens_that_the_teacher_lacks_have_the_cross_entropy_alone() -> None:
    student, batch = model(1, trainable=True), some_batch()
    source = teachers([model(2)], SOFT, maps=[identity(shared=30)])
    found, _ = loss_and_gradients(learner(student, source), batch)
    mine = log_softmax(logits_at_targets(student, batch)[:, :30], 2.0)
    chunk = source.rows(batch).chunk(slice(None))
    assert isinstance(chunk, DenseChunk) and chunk.weights is not None
    divergence = 4.0 * (np.exp(chunk.values) * (chunk.values - mine)).sum(axis=1)
    entropy = -log_softmax(logits_at_targets(student, batch))[np.arange(17), batch.labels[batch.labels >= 0]]
    assert found == pytest.approx((0.5 * chunk.weights * divergence + 0.5 * entropy).sum())


def writer(**changes: Any) -> OnPolicy:
    settings: dict[str, Any] = {"fraction": 1.0, "max_tokens": 5, "prompt_tokens": 3, "temperature": 1.0, "top_p": 1.0}
    return OnPolicy(**{**settings, **changes}, stop_ids=(), vocab_size=40)


def test_what_the_student_wrote_counts_as_much_as_the_batch_it_replaces() -> None:
    student, batch = model(1, trainable=True), some_batch()
    found = one(student, on_policy=writer())
    total, _ = loss_and_gradients(found, batch, 1 / 17)
    parts = found.explain()
    assert parts.keys() == {"divergence"}, "nobody says that what it wrote is right"
    assert total == pytest.approx(parts["divergence"])
    written = writer().written(student, batch, KEY)
    assert written is not None and written.n_supervised == 15
    expected, _ = loss_and_gradients(one(student, params=replace(SOFT, alpha=1.0)), written, 1 / 15)
    assert total == pytest.approx(expected)


def test_other_batches_are_those_of_the_data() -> None:
    policy, batch = writer(fraction=0.5), some_batch()
    keys = [PassKey(1, step, 0) for step in range(30)]
    data_key = next(key for key in keys if not policy.is_due(key))
    expected, _ = loss_and_gradients(one(), batch, 1.0, data_key)
    found, _ = loss_and_gradients(one(on_policy=policy), batch, 1.0, data_key)
    assert found == pytest.approx(expected)


def test_a_label_outside_the_vocabulary_is_refused() -> None:
    batch = some_batch()
    labels = batch.labels.copy()
    labels[0, 0] = 40
    with pytest.raises(ModelError, match="label ids"):
        one().loss(replace(batch, labels=labels), 1.0, KEY)

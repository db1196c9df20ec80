"""A language model with a head: what it answers, what it is charged for, and what of it is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.tape import Tape
from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples, ExampleStore
from entrenar_core.data.pack import Rows, fill, one_per_row
from entrenar_core.data.tasks import Task
from entrenar_core.errors import ModelError
from entrenar_core.lora.files import adapter_pairs
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.heads import HeadSpec, SequenceModel, attach_head, new_head
from entrenar_core.model.module import PassKey
from entrenar_core.optim.base import decays
from tests.model.tiny import ARCHITECTURE_NAMES, build, lively, tiny_spec, tokens_of

CLASSES = HeadSpec(Task.CLASSIFICATION, ("no", "yes", "maybe"), "review", "mood")
NUMBER = HeadSpec(Task.REGRESSION, (), "review", "stars", mean=10.0, std=4.0)
DOCUMENTS = [tokens_of(5, seed=1), tokens_of(3, seed=2), tokens_of(7, seed=3)]
LABELS, NUMBERS = [2, 0, 1], [8.0, 14.0, 11.0]
KEY = PassKey(1, 2, 0)


def examples(spec: HeadSpec, documents: Sequence[np.ndarray] = DOCUMENTS) -> Examples:
    store = ExampleStore()
    for index, tokens in enumerate(documents):
        label, value = (LABELS[index], None) if spec.is_classification else (0, NUMBERS[index])
        store.add([*tokens.tolist(), label], bytes(len(tokens)) + b"\1", value)
    return store.finish(rows=len(documents))


def batch_of(spec: HeadSpec) -> Batch:
    """The second document in a row of its own, the others packed into one."""
    return fill(examples(spec), Rows(np.array([1, 0, 2]), np.array([0, 1, 3])), seq_len=16, pad_id=0)


ORDER = [1, 0, 2]


def with_head(spec: HeadSpec, backbone: LanguageModel | None = None, **options: Any) -> SequenceModel:
    backbone = build(tiny_spec(), **options) if backbone is None else backbone
    sizes = (spec.n_outputs, backbone.spec.hidden_size)
    return attach_head(backbone, spec, lively("cls.output.weight", sizes), lively("cls.output.bias", sizes[:1]))


def last_states(model: SequenceModel) -> np.ndarray:
    """The final hidden state of the last token of each document, in the order of the batch, each read alone."""
    found = []
    for index in ORDER:
        tokens = DOCUMENTS[index][None, :]
        positions = np.arange(tokens.shape[1], dtype=np.int32)[None, :]
        found.append(model.backbone.hidden_states(tokens, positions, np.zeros_like(tokens)).numpy()[0, -1])
    return np.stack(found)


def expected_outputs(model: SequenceModel) -> np.ndarray:
    weight, bias = model.head_values()
    return last_states(model) @ weight.T + bias


def loss_and_gradients(
    model: SequenceModel, batch: Batch, scale: float = 1.0, key: PassKey | None = None
) -> tuple[float, dict[str, np.ndarray]]:
    for tensor in model.trainable().values():
        tensor.zero_grad()
    with Tape() as tape:
        total = model.loss(batch, scale, key)
    tape.backward(total)
    return float(total.data), {name: np.array(tensor.grad) for name, tensor in model.trainable().items()}


# -- what it answers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", [CLASSES, NUMBER], ids=["classes", "number"])
@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_outputs_are_the_head_applied_to_the_last_state_of_each_document(architecture: str, spec: HeadSpec) -> None:
    model = with_head(spec, build(tiny_spec(architecture)))
    np.testing.assert_allclose(model.outputs(batch_of(spec)).numpy(), expected_outputs(model), rtol=1e-9)


def test_the_loss_of_classes_is_their_cross_entropy() -> None:
    model = with_head(CLASSES)
    logits = expected_outputs(model)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    expected = -sum(log_p[place, LABELS[index]] for place, index in enumerate(ORDER))
    assert float(model.loss(batch_of(CLASSES), 0.25, None).data) == pytest.approx(0.25 * expected, rel=1e-9)


def test_the_loss_of_a_number_is_its_squared_error_in_standard_deviations() -> None:
    model = with_head(NUMBER)
    said = expected_outputs(model)[:, 0]
    expected = sum((said[place] - (NUMBERS[index] - 10.0) / 4.0) ** 2 for place, index in enumerate(ORDER))
    assert float(model.loss(batch_of(NUMBER), 0.25, None).data) == pytest.approx(0.25 * expected, rel=1e-9)


def test_evaluation_gives_the_loss_and_the_answers_of_one_pass() -> None:
    model = with_head(CLASSES)
    total, answers = model.loss_and_answers(batch_of(CLASSES), 1.0)
    assert float(total.data) == float(model.loss(batch_of(CLASSES), 1.0, None).data)
    assert answers.predicted.tolist() == expected_outputs(model).argmax(axis=1).tolist()
    assert answers.actual.tolist() == [LABELS[index] for index in ORDER]
    accuracy = np.mean(answers.predicted == answers.actual)
    assert model.measure([answers, answers])["accuracy"] == pytest.approx(accuracy)


def test_numbers_are_answered_in_the_units_of_the_data() -> None:
    model = with_head(NUMBER)
    _, answers = model.loss_and_answers(batch_of(NUMBER), 1.0)
    np.testing.assert_allclose(answers.predicted, 10.0 + 4.0 * expected_outputs(model)[:, 0], rtol=1e-9)
    assert answers.actual.tolist() == [NUMBERS[index] for index in ORDER]
    error = model.measure([answers])["mae"]
    assert error == pytest.approx(np.abs(answers.predicted - answers.actual).mean())


def test_numbers_that_differ_little_far_from_zero_are_told_apart() -> None:
    spec = replace(NUMBER, mean=1.7e9, std=0.25)
    numbers = [1.7e9 - 0.25, 1.7e9 + 0.5, 1.7e9]
    store = ExampleStore()
    for tokens, number in zip(DOCUMENTS, numbers, strict=True):
        store.add([*tokens.tolist(), 0], bytes(len(tokens)) + b"\1", number)
    batch = fill(store.finish(rows=3), one_per_row(np.arange(3)), seq_len=16, pad_id=0)
    model = with_head(spec)
    total, answers = model.loss_and_answers(batch, 1.0)
    assert answers.actual.tolist() == numbers
    said = model.outputs(batch).numpy()[:, 0]
    assert float(total.data) == pytest.approx(float(np.square(said - [-1.0, 2.0, 0.0]).sum()), rel=1e-9)


def test_probabilities_are_the_softmax_also_of_large_logits() -> None:
    found = CLASSES.probabilities(np.array([[0.0, np.log(3.0), 0.0], [1e4, 0.0, 0.0]], np.float32))
    np.testing.assert_allclose(found, [[0.2, 0.6, 0.2], [1.0, 0.0, 0.0]], rtol=1e-6, atol=1e-12)


# -- what is trained ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize("spec", [CLASSES, NUMBER], ids=["classes", "number"])
def test_every_gradient_equals_the_finite_difference(spec: HeadSpec, checkpoint_activations: bool) -> None:
    model, batch = with_head(spec, checkpoint_activations=checkpoint_activations), batch_of(spec)
    _, gradients = loss_and_gradients(model, batch)
    rng, step = np.random.default_rng(0), 1e-6
    for name, tensor in model.trainable().items():
        direction = rng.standard_normal(tensor.shape)
        losses = []
        for sign in (1, -1):
            tensor.data += sign * step * direction
            tensor.mark_changed()
            losses.append(float(model.loss(batch, 1.0, None).data))
            tensor.data -= sign * step * direction
        slope = (losses[0] - losses[1]) / (2 * step)
        assert float((gradients[name] * direction).sum()) == pytest.approx(slope, rel=1e-5, abs=1e-7), name


@pytest.mark.parametrize("tied", [False, True])
def test_the_output_matrix_of_the_language_model_is_not_trained(tied: bool) -> None:
    model = with_head(CLASSES, build(tiny_spec(tie_embeddings=tied)))
    trained = model.trainable()
    assert {"cls.output.weight", "cls.output.bias", "token_embd.weight", "output_norm.weight"} <= trained.keys()
    assert "output.weight" not in trained
    assert ("output.weight" in model.parameters()) is not tied
    loss_and_gradients(model, batch_of(CLASSES))
    assert all(tensor.grad is not None for tensor in trained.values())


def test_beside_adapters_only_the_head_is_trained() -> None:
    backbone = build(tiny_spec())
    adapters = inject_lora(backbone, LoRASettings(rank=2, alpha=4, targets=["q_proj"]), seed=0)
    model = new_head(backbone, CLASSES, seed=0)
    assert model.trainable().keys() == {*adapters, "cls.output.weight", "cls.output.bias"}
    assert adapter_pairs(model).keys() == {"blk.0.attn_q.weight", "blk.1.attn_q.weight"}


def test_a_frozen_backbone_still_trains_the_head() -> None:
    model = with_head(NUMBER, build(tiny_spec(), trainable=False))
    _, gradients = loss_and_gradients(model, batch_of(NUMBER))
    assert gradients.keys() == {"cls.output.weight", "cls.output.bias"}


def test_dropout_of_adapters_follows_the_key() -> None:
    backbone = build(tiny_spec())
    inject_lora(backbone, LoRASettings(rank=2, alpha=4, dropout=0.5), seed=0)
    model, rng = with_head(CLASSES, backbone), np.random.default_rng(0)
    for name, tensor in model.trainable().items():
        if name.endswith("lora_b"):
            tensor.data += rng.standard_normal(tensor.shape)
    batch = batch_of(CLASSES)
    dropped, again, other, whole = (
        float(model.loss(batch, 1.0, key).data) for key in (KEY, KEY, PassKey(1, 3, 0), None)
    )
    assert dropped == again
    assert len({dropped, other, whole}) == 3


def test_a_new_head_is_small_drawn_from_its_seed_and_has_no_bias() -> None:
    weights = [new_head(build(tiny_spec(hidden_size=512)), CLASSES, seed).head_values()[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(weights[0], weights[1])
    assert np.abs(weights[0] - weights[2]).max() > 0
    assert weights[0].std() == pytest.approx(0.02, rel=0.1)
    assert new_head(build(tiny_spec()), CLASSES, 0).head_values()[1].tolist() == [0.0, 0.0, 0.0]


def test_weight_decay_is_for_the_weight_and_not_for_the_bias() -> None:
    decaying = {name: decays(name, tensor.shape) for name, tensor in with_head(NUMBER).trainable().items()}
    assert (decaying["cls.output.weight"], decaying["cls.output.bias"]) == (True, False)


# -- what does not fit ----------------------------------------------------------------------------------------------


def test_a_class_that_the_head_does_not_have_is_an_error() -> None:
    store = ExampleStore()
    store.add([1, 2, 3], b"\0\0\1")
    batch = fill(store.finish(rows=1), one_per_row(np.array([0])), seq_len=8, pad_id=0)
    with pytest.raises(ModelError, match="class 3 for a head of 3 classes"):
        with_head(CLASSES).loss(batch, 1.0, None)


def test_a_regression_needs_numbers() -> None:
    with pytest.raises(ModelError, match="no numbers"):
        with_head(NUMBER).loss(batch_of(CLASSES), 1.0, None)


def test_a_head_of_another_width_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"\[3, 9\].*hidden states of 16, and the task has 3 outputs"):
        attach_head(build(tiny_spec()), CLASSES, np.zeros((3, 9)), np.zeros(3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": Task.CHAT}, "needs no head"),
        ({"classes": ("one",)}, "at least two"),
        ({"classes": ("a", "a")}, "different"),
        ({"task": Task.REGRESSION, "std": 0.0}, "standardised"),
        ({"task": Task.REGRESSION, "mean": float("nan")}, "standardised"),
    ],
)
def test_a_spec_that_no_head_can_have_is_an_error(changes: dict[str, Any], message: str) -> None:
    fields = {"task": Task.CLASSIFICATION, "classes": ("a", "b"), "text_column": "t", "target_column": "y"}
    with pytest.raises(ModelError, match=message):
        HeadSpec(**(fields | changes))

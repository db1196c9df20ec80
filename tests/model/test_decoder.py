"""What a decoder promises whatever its architecture: causality, isolation of documents, and exact sums of losses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.tape import NonFiniteError, Tape
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.errors import ModelError
from tests.model.tiny import (
    ARCHITECTURE_NAMES,
    DOUBLE,
    build,
    lively_weights,
    loss_and_gradients,
    pack,
    tiny_spec,
    tokens_of,
)

architectures = pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)


def assert_same_gradients(actual: dict[str, np.ndarray], expected: dict[str, np.ndarray], rtol: float) -> None:
    assert actual.keys() == expected.keys()
    for name, grad in expected.items():
        assert np.linalg.norm(actual[name] - grad) <= rtol * np.linalg.norm(grad), name


def documents(*lengths: int) -> list[np.ndarray]:
    return [tokens_of(length, seed=length) for length in lengths]


@architectures
def test_logits_have_a_row_for_each_position(architecture: str) -> None:
    assert build(tiny_spec(architecture)).logits(tokens_of(3, 7)).shape == (3, 7, 40)


@architectures
def test_a_position_sees_nothing_that_comes_later(architecture: str) -> None:
    model = build(tiny_spec(architecture))
    tokens = tokens_of(1, 10)
    changed = tokens.copy()
    changed[0, 6] += 1
    before, after = model.logits(tokens), model.logits(changed)
    np.testing.assert_array_equal(before[0, :6], after[0, :6])
    assert (before[0, 6:] != after[0, 6:]).any(axis=-1).all()


@architectures
def test_packed_documents_have_the_loss_and_gradients_of_separate_ones(architecture: str) -> None:
    model = build(tiny_spec(architecture))
    a, b, c = documents(7, 4, 11)
    packed_loss, packed_gradients = loss_and_gradients(model, pack([[a, b, c]], 20), 0.5)
    apart = [loss_and_gradients(model, pack([[each]], len(each) - 1), 0.5) for each in (a, b, c)]
    assert packed_loss == pytest.approx(sum(loss for loss, _ in apart), rel=1e-12)
    summed = {name: sum(gradients[name] for _, gradients in apart) for name in packed_gradients}
    assert_same_gradients(packed_gradients, summed, 1e-10)


@architectures
def test_padding_changes_nothing_whatever_it_holds(architecture: str) -> None:
    model = build(tiny_spec(architecture))
    (document,) = documents(9)
    padded = pack([[document]], 15)
    padded.tokens[0, 8:] = 39
    loss, gradients = loss_and_gradients(model, pack([[document]], 8))
    padded_loss, padded_gradients = loss_and_gradients(model, padded)
    assert padded_loss == pytest.approx(loss, rel=1e-12)
    assert_same_gradients(padded_gradients, gradients, 1e-10)


def test_the_loss_is_the_negative_log_probability_of_the_labels() -> None:
    model = build(tiny_spec())
    (document,) = documents(9)
    logits = model.logits(document[None, :-1])[0]
    log_probabilities = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    expected = -log_probabilities[np.arange(8), document[1:]].sum()
    loss = model.loss(pack([[document]], 8), 0.25, None)
    assert loss.shape == ()
    assert loss.data.dtype == np.float64
    assert float(loss.data) == pytest.approx(0.25 * expected, rel=1e-12)


def test_masked_labels_count_for_nothing() -> None:
    model = build(tiny_spec())
    (document,) = documents(9)
    whole, masked = pack([[document]], 8), pack([[document]], 8)
    masked.labels[0, :5] = IGNORE
    rest = pack([[document]], 8)
    rest.labels[0, 5:] = IGNORE
    loss, gradients = loss_and_gradients(model, whole)
    parts = [loss_and_gradients(model, part) for part in (masked, rest)]
    assert loss == pytest.approx(sum(part for part, _ in parts), rel=1e-12)
    assert_same_gradients(gradients, {name: parts[0][1][name] + parts[1][1][name] for name in gradients}, 1e-10)


def test_a_batch_without_labels_has_no_loss_and_no_gradient() -> None:
    batch = pack([documents(9)], 8)
    batch.labels[:] = IGNORE
    loss, gradients = loss_and_gradients(build(tiny_spec()), batch)
    assert loss == 0
    assert not any(grad.any() for grad in gradients.values())


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_micro_batches_accumulate_to_the_gradient_of_the_large_batch(tied: bool) -> None:
    model = build(tiny_spec(tie_embeddings=tied))
    a, b, c = documents(9, 6, 8)
    _, expected = loss_and_gradients(model, pack([[a], [b], [c]], 8), 1 / 20)
    for tensor in model.trainable().values():
        tensor.zero_grad()
    for document in (a, b, c):
        with Tape() as tape:
            loss = model.loss(pack([[document]], 8), 1 / 20, None)
        tape.backward(loss)
    accumulated = {name: np.asarray(tensor.grad) for name, tensor in model.trainable().items()}
    assert_same_gradients(accumulated, expected, 1e-10)


@architectures
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_activation_checkpointing_changes_no_bit(architecture: str, dtype: Any) -> None:
    spec, backend = tiny_spec(architecture), ReferenceBackend(dtype)
    batch = pack([documents(9, 5), documents(12)], 12)
    loss, gradients = loss_and_gradients(build(spec, backend=backend), batch)
    again, checkpointed = loss_and_gradients(build(spec, backend=backend, checkpoint_activations=True), batch)
    assert again == loss
    for name, grad in gradients.items():
        np.testing.assert_array_equal(checkpointed[name], grad, err_msg=name)


def test_activation_checkpointing_keeps_few_nodes() -> None:
    batch = pack([documents(9)], 8)
    counts = []
    for checkpoint_activations in (False, True):
        with Tape() as tape:
            build(tiny_spec(num_layers=4), checkpoint_activations=checkpoint_activations).loss(batch, 1.0, None)
        counts.append(len(tape.nodes))
    plain, checkpointed = counts
    assert plain > 40
    assert checkpointed <= 10


@architectures
def test_gradients_are_those_of_finite_differences(architecture: str) -> None:
    """Along random directions through all parameters at once."""
    spec, batch = tiny_spec(architecture), pack([documents(7, 4)], 10)
    weights = {name: array.astype(np.float64) for name, array in lively_weights(spec).items()}
    _, gradients = loss_and_gradients(build(spec, weights), batch)
    rng = np.random.default_rng(8)
    eps = 1e-5
    for _ in range(3):
        direction = {name: rng.standard_normal(array.shape) for name, array in weights.items()}
        moved = [
            {name: array + sign * eps * direction[name] for name, array in weights.items()} for sign in (1.0, -1.0)
        ]
        plus, minus = (float(build(spec, each).loss(batch, 1.0, None).data) for each in moved)
        analytic = sum(float((gradients[name] * direction[name]).sum()) for name in weights)
        assert (plus - minus) / (2 * eps) == pytest.approx(analytic, rel=1e-6)


def test_frozen_weights_get_no_gradient_but_pass_it_on() -> None:
    model = build(tiny_spec(), trainable=False)
    embedding = model.parameters()["token_embd.weight"]
    embedding.requires_grad = True
    batch = pack([documents(9)], 8)
    _, gradients = loss_and_gradients(model, batch)
    _, expected = loss_and_gradients(build(tiny_spec()), batch)
    assert gradients.keys() == {"token_embd.weight"}
    np.testing.assert_allclose(gradients["token_embd.weight"], expected["token_embd.weight"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("token", [-1, 40])
def test_a_token_outside_the_vocabulary_is_refused(token: int) -> None:
    tokens = tokens_of(1, 4)
    tokens[0, 2] = token
    with pytest.raises(ModelError, match=rf"token ids .*{token}.* for a vocabulary of 40"):
        build(tiny_spec()).logits(tokens)


def test_a_label_outside_the_vocabulary_is_refused() -> None:
    batch = pack([documents(9)], 8)
    batch.labels[0, 3] = 40
    with pytest.raises(ModelError, match=r"label ids .*40 for a vocabulary of 40"):
        build(tiny_spec()).loss(batch, 1.0, None)


def test_nothing_to_read_is_refused() -> None:
    with pytest.raises(ModelError, match="no tokens to read"):
        build(tiny_spec()).logits(np.zeros((1, 0), np.int32))


@pytest.mark.parametrize(
    ("name", "place"),
    [("blk.1.attn_k.weight", "blk.1.attn_k"), ("blk.0.ffn_up.weight", "blk.0.ffn_up"), ("output.weight", "output")],
)
@pytest.mark.parametrize("checkpoint_activations", [False, True], ids=["plain", "checkpointed"])
def test_anomaly_mode_names_the_layer_that_made_the_first_nan(
    name: str, place: str, checkpoint_activations: bool
) -> None:
    weights = lively_weights(tiny_spec())
    weights[name][0, 0] = np.nan
    model = build(tiny_spec(), weights, checkpoint_activations=checkpoint_activations)
    with pytest.raises(NonFiniteError, match=place.replace(".", r"\.")), Tape(detect_anomaly=True):
        model.loss(pack([documents(9)], 8), 1.0, None)


def test_the_batch_is_left_as_it_was() -> None:
    batch = pack([documents(9, 5)], 14)
    copy = replace(
        batch, **{field: getattr(batch, field).copy() for field in ("tokens", "labels", "positions", "starts")}
    )
    loss_and_gradients(build(tiny_spec()), batch)
    for field in ("tokens", "labels", "positions", "starts"):
        np.testing.assert_array_equal(getattr(batch, field), getattr(copy, field))
    assert isinstance(batch, Batch)


def test_the_backend_decides_the_precision() -> None:
    tokens = tokens_of(1, 6)
    single = build(tiny_spec(), backend=ReferenceBackend(np.float32)).logits(tokens)
    double = build(tiny_spec(), backend=DOUBLE).logits(tokens)
    assert (single.dtype, double.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, double, atol=1e-5)

"""What one or several teachers say of the supervised positions of a batch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entrenar_core.autograd.ops.distillation import DenseChunk
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.distill.teachers import Teachers
from entrenar_core.distill.vocabulary import TokenMap
from entrenar_core.errors import ModelError
from entrenar_core.model.decoder import Taps
from tests.distill.worlds import identity, log_softmax, logits_at_targets, model, some_batch, teachers

SOFT = DistillationParams("forward_kl", temperature=2.0, alpha=0.5)
RAW = replace(SOFT, kind="logit_mse")


def said(source: Teachers, part: slice = slice(None)) -> DenseChunk:
    chunk = source.rows(some_batch()).chunk(part)
    assert isinstance(chunk, DenseChunk)
    return chunk


def test_one_teacher_gives_log_probabilities_at_the_temperature() -> None:
    one = model(3)
    found = said(teachers([one], SOFT))
    np.testing.assert_allclose(found.values, log_softmax(logits_at_targets(one, some_batch()), 2.0), atol=1e-12)
    assert found.weights is None and found.values.shape == (17, 40)


def test_a_chunk_is_a_part_of_the_whole() -> None:
    source = teachers([model(3), model(4)], SOFT, combine="confidence")
    np.testing.assert_allclose(said(source, slice(5, 9)).values, said(source).values[5:9], atol=1e-12)


def test_logits_are_given_for_their_squared_error() -> None:
    one = model(3)
    np.testing.assert_allclose(said(teachers([one], RAW)).values, logits_at_targets(one, some_batch()), atol=1e-12)


def test_several_teachers_are_the_mixture_of_their_distributions() -> None:
    models = [model(3), model(4)]
    found = said(teachers(models, SOFT, [3.0, 1.0])).values
    each = [np.exp(log_softmax(logits_at_targets(one, some_batch()), 2.0)) for one in models]
    np.testing.assert_allclose(np.exp(found), 0.75 * each[0] + 0.25 * each[1], atol=1e-12)
    raw = said(teachers(models, RAW, [3.0, 1.0])).values
    logits = [logits_at_targets(one, some_batch()) for one in models]
    np.testing.assert_allclose(raw, 0.75 * logits[0] + 0.25 * logits[1], atol=1e-12)


def test_by_confidence_a_surer_teacher_counts_more_at_each_position() -> None:
    models = [model(3), model(4)]
    found = np.exp(said(teachers(models, SOFT, [1.0, 2.0], combine="confidence")).values)
    each = [np.exp(log_softmax(logits_at_targets(one, some_batch()), 2.0)) for one in models]
    sure = np.array([np.exp((one * np.log(one)).sum(axis=1)) for one in each]) * [[1.0], [2.0]]
    shares = sure / sure.sum(axis=0)
    np.testing.assert_allclose(found, sum(one * share[:, None] for one, share in zip(each, shares, strict=True)))
    np.testing.assert_allclose(found.sum(axis=1), 1.0)


def test_confidence_in_logits_is_that_of_their_softmax() -> None:
    models = [model(3), model(4)]
    found = said(teachers(models, RAW, combine="confidence")).values
    logits = [logits_at_targets(one, some_batch()) for one in models]
    each = [np.exp(log_softmax(one)) for one in logits]
    sure = np.array([np.exp((one * np.log(one)).sum(axis=1)) for one in each])
    shares = sure / sure.sum(axis=0)
    expected = sum(one * share[:, None] for one, share in zip(logits, shares, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-10)


@pytest.mark.parametrize("params", [SOFT, RAW])
@pytest.mark.parametrize("combine", ["mean", "confidence"])
def test_an_ensemble_of_identical_teachers_is_one_teacher(params: DistillationParams, combine: str) -> None:
    alone = said(teachers([model(3)], params)).values
    together = said(teachers([model(3)] * 3, params, [1.0, 5.0, 0.5], combine=combine)).values
    np.testing.assert_allclose(together, alone, atol=1e-12)


def test_a_padded_teacher_is_compared_on_the_tokens_that_both_have() -> None:
    wide = model(3, vocab_size=48)
    source = teachers([wide], SOFT)
    expected = log_softmax(logits_at_targets(wide, some_batch())[:, :40], 2.0)
    np.testing.assert_allclose(said(source).values, expected, atol=1e-12)


def test_a_mapped_teacher_reads_and_says_the_tokens_in_its_own_ids() -> None:
    """Its embedding and output rows are those of another model in reverse order, so it says the same."""
    plain, turned = model(3), model(3)
    for weight in (turned.token_embd.weight, turned.output.weight):
        weight.assign(weight.numpy()[::-1].copy())  # type: ignore[union-attr]
    ids = np.arange(39, -1, -1, dtype=np.int32)
    source = teachers([turned], SOFT, maps=[TokenMap("turned", ids, ids, 40, 40)])
    np.testing.assert_allclose(said(source).values, said(teachers([plain], SOFT)).values, atol=1e-12)


def test_positions_whose_tokens_a_teacher_lacks_do_not_count() -> None:
    batch = some_batch()
    source = teachers([model(3)], SOFT, maps=[identity(shared=30)])
    found = said(source)
    asked = batch.labels >= 0
    expected = (batch.tokens[asked] < 30) & (batch.labels[asked] < 30)
    assert 0 < expected.sum() < 17 and found.values.shape == (17, 30)
    assert found.weights is not None and found.weights.tolist() == expected.astype(float).tolist()
    part = said(source, slice(4, 8)).weights
    assert part is not None and part.tolist() == expected[4:8].astype(float).tolist()


def test_the_first_teacher_leaves_its_hidden_states() -> None:
    first, taps = model(3), Taps(frozenset({1}))
    teachers([first, model(4)], SOFT).rows(some_batch(), taps)
    own, batch = Taps(frozenset({1})), some_batch()
    first.hidden_states(batch.tokens, batch.positions, batch.starts, taps=own)
    np.testing.assert_array_equal(taps.states[1].numpy(), own.states[1].numpy())


def test_a_damaged_teacher_is_named() -> None:
    broken = model(3)
    broken.output_norm.weight.assign(np.full(16, np.nan))
    with pytest.raises(ModelError, match="not finite") as caught:
        teachers([model(1), broken], SOFT).rows(some_batch())
    assert caught.value.where == "teacher 1"

"""Divergence and agreement against their definitions in numpy, and the laws that they keep."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import DataError, ModelError
from entrenar_core.evaluation.divergence import CHANGE_SHARES, KL_SHARES, TokenDivergences, divergence, summary
from entrenar_core.evaluation.divergence_kernels import compare_rows
from entrenar_core.evaluation.likelihood import perplexity
from entrenar_core.evaluation.vocabulary import shared_tokens
from tests.evaluation.models import VOCAB_SIZE, batches_of, log_probabilities, model_of, uniform_model

BATCHES = batches_of(9, 16)


def compared(reference: np.ndarray, logits: np.ndarray, labels: np.ndarray) -> TokenDivergences:
    found = TokenDivergences(*np.empty((3, len(labels))), np.empty(len(labels), np.bool_))
    outputs = (found.kl, found.nll, found.reference_nll, found.same_top)
    compare_rows(reference.astype(np.float32), logits.astype(np.float32), labels, *outputs, 0, len(labels))
    return found


def test_each_token_is_compared_by_the_definition(rng: np.random.Generator) -> None:
    p, q = rng.normal(0, 4, (2, 30, 50)).astype(np.float32)
    labels = rng.integers(0, 50, 30, dtype=np.int32)
    found = compared(p, q, labels)
    log_p, log_q = (x - np.log(np.exp(x.astype(np.float64)).sum(axis=1, keepdims=True)) for x in (p, q))
    np.testing.assert_allclose(found.kl, (np.exp(log_p) * (log_p - log_q)).sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(found.nll, -log_q[np.arange(30), labels], rtol=1e-5)
    np.testing.assert_allclose(found.reference_nll, -log_p[np.arange(30), labels], rtol=1e-5)
    np.testing.assert_array_equal(found.same_top, p.argmax(axis=1) == q.argmax(axis=1))
    assert 0 < np.count_nonzero(compared(p, p + q / 3, labels).same_top) < 30


def test_small_divergences_keep_their_digits(rng: np.random.Generator) -> None:
    """KL of almost equal distributions is half the variance of the difference: 1e-9 comes out as such."""
    p = rng.normal(0, 3, (1, 64)).astype(np.float32)
    q = (p + rng.normal(0, 1e-4, p.shape)).astype(np.float32)
    log_p, log_q = (x - np.log(np.exp(x.astype(np.float64)).sum()) for x in (p, q))
    exact = float((np.exp(log_p) * (log_p - log_q)).sum())
    assert exact < 1e-8
    assert compared(p, q, np.zeros(1, np.int32)).kl[0] == pytest.approx(exact, rel=1e-3)


def test_a_shift_of_all_logits_is_no_divergence(rng: np.random.Generator) -> None:
    p = rng.normal(0, 3, (20, 64)).astype(np.float32)
    found = compared(p, p + np.float32(8), np.zeros(20, np.int32))
    assert (found.kl >= 0).all() and (found.kl < 1e-6).all() and found.same_top.all()


def test_divergence_from_itself_is_nothing() -> None:
    model = model_of()
    found = divergence(model, model, BATCHES)
    assert found.kl.value == found.change.value == found.log_ratio.value == 0
    assert found.change_rms.standard_error == 0
    assert found.same_top.value == found.ratio.value == 1
    assert found.correlation == pytest.approx(1)
    assert found.difference.standard_error == pytest.approx(0, abs=1e-6)


def test_two_models_by_numpy() -> None:
    model, reference = model_of(1), model_of(0)
    log_q, labels = log_probabilities(model, BATCHES)
    log_p, _ = log_probabilities(reference, BATCHES)
    rows = np.arange(len(labels))
    kl = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    change = np.exp(log_q[rows, labels]) - np.exp(log_p[rows, labels])
    found = divergence(model, reference, BATCHES)
    assert found.tokens == len(labels) and found.vocabulary == VOCAB_SIZE
    assert found.kl.value == pytest.approx(kl.mean(), rel=1e-5)
    assert found.kl.standard_error == pytest.approx(kl.std(ddof=1) / math.sqrt(len(kl)), rel=1e-4)
    assert found.kl_percentiles[100] == pytest.approx(kl.max(), rel=1e-5)
    assert found.kl_percentiles[0] == pytest.approx(kl.min(), rel=1e-4)
    assert found.kl_percentiles[50] == pytest.approx(np.median(kl), rel=1e-5)
    assert found.change.value == pytest.approx(change.mean(), rel=1e-4)
    assert found.change_rms.value == pytest.approx(math.sqrt((change**2).mean()), rel=1e-5)
    assert found.same_top.value == (log_p.argmax(axis=1) == log_q.argmax(axis=1)).mean()
    assert found.cost.value == pytest.approx(perplexity(model, BATCHES).value, rel=1e-6)
    assert found.reference_cost.value == pytest.approx(perplexity(reference, BATCHES).value, rel=1e-6)
    costs, base = -log_q[rows, labels], -log_p[rows, labels]
    assert found.correlation == pytest.approx(np.corrcoef(costs, base)[0, 1], rel=1e-4)
    assert found.log_ratio.value == pytest.approx((costs - base).mean(), rel=1e-4)
    assert found.log_ratio.standard_error == pytest.approx((costs - base).std(ddof=1) / math.sqrt(len(kl)), rel=1e-4)
    assert list(found.kl_percentiles) == list(KL_SHARES) and list(found.change_percentiles) == list(CHANGE_SHARES)


def test_divergence_is_never_negative_and_goes_one_way() -> None:
    model, uniform = model_of(), uniform_model()
    there, back = divergence(model, uniform, BATCHES), divergence(uniform, model, BATCHES)
    assert there.kl_percentiles[0] >= 0 and back.kl_percentiles[0] >= 0
    assert there.kl.value > 0.01 and back.kl.value > 0.01
    assert there.kl.value != pytest.approx(back.kl.value, rel=1e-3)
    log_p, _ = log_probabilities(model, BATCHES)
    entropy = -(np.exp(log_p) * log_p).sum(axis=1).mean()
    assert back.kl.value == pytest.approx(math.log(VOCAB_SIZE) - entropy, rel=1e-5)


@pytest.mark.parametrize("rows", [1, 7])
def test_the_size_of_a_chunk_does_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = divergence(model_of(1), model_of(0), BATCHES)
    monkeypatch.setattr(ReferenceBackend, "loss_rows", lambda *args: rows)
    assert divergence(model_of(1), model_of(0), BATCHES).kl.value == pytest.approx(whole.kl.value, rel=1e-6)


def test_the_cpu_backend_finds_the_same() -> None:
    backend = CpuBackend(2)
    try:
        found = divergence(model_of(1, backend), model_of(0, backend), BATCHES)
    finally:
        backend.close()
    assert found.kl.value == pytest.approx(divergence(model_of(1), model_of(0), BATCHES).kl.value, rel=1e-5)


def test_a_padded_vocabulary_is_compared_without_its_padding() -> None:
    padded = model_of(1, vocab_size=VOCAB_SIZE + 8)
    found = divergence(padded, model_of(0), BATCHES)
    assert found.vocabulary == VOCAB_SIZE
    log_q, labels = log_probabilities(padded, BATCHES)
    log_q = log_q[:, :VOCAB_SIZE] - np.log(np.exp(log_q[:, :VOCAB_SIZE]).sum(axis=1, keepdims=True))
    log_p, _ = log_probabilities(model_of(0), BATCHES)
    assert found.kl.value == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean(), rel=1e-5)
    assert found.cost.value == pytest.approx(math.exp(-log_q[np.arange(len(labels)), labels].mean()), rel=1e-5)


def test_a_label_that_only_one_model_has_is_refused() -> None:
    with pytest.raises(ModelError, match="none of the 20 tokens"):
        divergence(model_of(), model_of(1), BATCHES, vocabulary=20)
    with pytest.raises(ModelError, match="share at most 40"):
        divergence(model_of(), model_of(1), BATCHES, vocabulary=41)


def test_nothing_to_score_and_broken_models_are_refused() -> None:
    with pytest.raises(DataError, match="no token"):
        divergence(model_of(), model_of(), [])
    broken = model_of()
    broken.output_norm.weight.data[...] = np.nan
    for pair in ((broken, model_of()), (model_of(), broken)):
        with pytest.raises(ModelError, match="not finite"):
            divergence(*pair, BATCHES)


def test_a_stop_keeps_what_was_scored() -> None:
    done: list[int] = []
    found = divergence(model_of(), model_of(1), BATCHES, after_rows=done.append, should_stop=lambda: True)
    assert done == [2] and found == divergence(model_of(), model_of(1), BATCHES[:1])


def test_a_single_token_has_no_error() -> None:
    one = TokenDivergences(np.array([0.5]), np.array([1.0]), np.array([2.0]), np.array([True]))
    found = summary(one, VOCAB_SIZE)
    assert (found.kl.value, found.kl.standard_error, found.same_top.standard_error) == (0.5, 0, 0)
    assert found.ratio.value == pytest.approx(math.exp(-1)) and found.correlation is None


def test_costs_that_do_not_vary_have_no_correlation() -> None:
    alike, varied = np.ones(3), np.array([1.0, 2.0, 4.0])
    assert summary(TokenDivergences(alike, alike, varied, alike > 0), VOCAB_SIZE).correlation is None
    assert summary(TokenDivergences(alike, varied, 5 - varied, alike > 0), VOCAB_SIZE).correlation == pytest.approx(-1)


def test_figures_have_names_in_json() -> None:
    found = divergence(model_of(), model_of(1), BATCHES).as_json()
    assert json.loads(json.dumps(found)) == found
    assert {"kl", "kl_error", "same_top", "ratio_error", "tokens"} <= set(found)
    assert set(found["kl_percentiles"]) == {"100", "99.9", "99", "95", "90", "50", "10", "5", "1", "0.1", "0"}  # type: ignore[call-overload]


def test_vocabularies_may_differ_in_padding_alone() -> None:
    assert shared_tokens(["a", "b", "c"], ["a", "b"], "m.gguf", "ref.gguf") == 2
    assert shared_tokens(["a", "b"], ["a", "b", "pad"], "m.gguf", "ref.gguf") == 2
    with pytest.raises(ModelError, match=r"2 of 3 tokens differ \(token 1 is 'x', not 'b'\)") as caught:
        shared_tokens(["a", "x", "y"], ["a", "b", "c"], "m.gguf", "ref.gguf")
    assert caught.value.where == "m.gguf"

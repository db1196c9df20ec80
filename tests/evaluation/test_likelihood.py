"""Perplexity against its definition, and what it must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import IGNORE
from entrenar_core.errors import DataError, ModelError
from entrenar_core.evaluation.likelihood import Perplexity, bytes_of_tokens, perplexity
from entrenar_core.evaluation.statistics import Estimate
from entrenar_core.tokenizer.build import tokenizer_from_metadata
from entrenar_core.tokenizer.train import train_bpe
from tests.evaluation.models import VOCAB_SIZE, batches_of, log_probabilities, model_of, uniform_model

BATCHES = batches_of(9, 16)


def test_perplexity_is_the_exponential_of_the_mean_cost_of_a_token() -> None:
    model = model_of()
    log_p, labels = log_probabilities(model, BATCHES)
    costs = -log_p[np.arange(len(labels)), labels]
    found = perplexity(model, BATCHES)
    assert found.tokens == len(labels)
    assert found.value == pytest.approx(math.exp(costs.mean()), rel=1e-6)
    # llama.cpp: sqrt((mean of squares - square of mean) / (count - 1)) · PPL
    error = math.sqrt(((costs**2).mean() - costs.mean() ** 2) / (len(costs) - 1))
    assert found.mean_nll.standard_error == pytest.approx(error, rel=1e-5)
    assert found.standard_error == pytest.approx(error * found.value, rel=1e-5)


def test_a_uniform_model_is_perplexed_by_the_whole_vocabulary() -> None:
    found = perplexity(uniform_model(), BATCHES)
    assert found.value == pytest.approx(VOCAB_SIZE, rel=1e-6)
    assert found.standard_error == pytest.approx(0, abs=1e-5)


def test_it_is_the_loss_of_training() -> None:
    model = model_of()
    loss = sum(float(model.loss(batch, 1.0, None).data) for batch in BATCHES)
    found = perplexity(model, BATCHES)
    assert found.mean_nll.value == pytest.approx(loss / found.tokens, rel=1e-6)


@pytest.mark.parametrize("rows", [1, 7])
def test_the_size_of_a_chunk_does_not_matter(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = perplexity(model_of(), BATCHES)
    monkeypatch.setattr(ReferenceBackend, "loss_rows", lambda *args: rows)
    assert perplexity(model_of(), BATCHES).mean_nll.value == pytest.approx(whole.mean_nll.value, rel=1e-7)


def test_the_cpu_backend_finds_the_same() -> None:
    backend = CpuBackend(2)
    try:
        assert perplexity(model_of(backend=backend), BATCHES).value == pytest.approx(
            perplexity(model_of(), BATCHES).value, rel=1e-5
        )
    finally:
        backend.close()


def test_progress_is_told_in_rows_and_a_stop_keeps_what_was_scored() -> None:
    done: list[int] = []
    partial = perplexity(model_of(), BATCHES, after_rows=done.append, should_stop=lambda: True)
    assert done == [2]
    assert partial == perplexity(model_of(), BATCHES[:1])
    done.clear()
    perplexity(model_of(), BATCHES, after_rows=done.append)
    assert done == [2, 4]


def test_bits_per_byte_are_the_cost_over_the_bytes_of_the_scored_tokens() -> None:
    lengths = np.arange(VOCAB_SIZE, dtype=np.int32) % 5
    found = perplexity(uniform_model(), BATCHES, token_bytes=lengths)
    n_bytes = sum(int(lengths[batch.labels[batch.labels != IGNORE]].sum()) for batch in BATCHES)
    assert found.n_bytes == n_bytes
    assert found.bits_per_byte == pytest.approx(math.log2(VOCAB_SIZE) * found.tokens / n_bytes, rel=1e-6)
    assert perplexity(uniform_model(), BATCHES).bits_per_byte is None


def test_a_token_has_the_bytes_of_its_text_and_control_tokens_none() -> None:
    metadata: dict[str, Any] = {name: value.value for name, value in train_bpe(["one two three añb"], 300)}
    tokenizer = tokenizer_from_metadata(metadata, "test")
    found = bytes_of_tokens(tokenizer, tokenizer.vocab_size + 3)
    text = "two añ"
    assert found[tokenizer.encode(text)].sum() == len(text.encode())
    assert tokenizer.eos_id is not None and found[tokenizer.eos_id] == 0
    assert found[-3:].tolist() == [0, 0, 0]


def test_nothing_to_score_is_refused() -> None:
    batch = BATCHES[0]
    empty = replace(batch, labels=np.full_like(batch.labels, IGNORE), n_supervised=0)
    with pytest.raises(DataError, match="no token"):
        perplexity(model_of(), [empty])
    with pytest.raises(DataError, match="no token"):
        perplexity(model_of(), [])


def test_numbers_that_are_not_finite_are_refused() -> None:
    model = model_of()
    model.output_norm.weight.data[...] = np.nan
    with pytest.raises(ModelError, match="not finite"):
        perplexity(model, BATCHES)


def test_a_perplexity_beyond_all_numbers_is_infinite_and_no_error() -> None:
    assert Perplexity(1, Estimate(1e5, 0.0)).value == math.inf

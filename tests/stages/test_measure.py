"""The measurement of a step leaves the model as it was and scales what it has seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.optim.adam import AdamW
from entrenar_core.stages.measure import StepTime, measure_step, part_of, time_plan
from tests.model.tiny import pack, tokens_of
from tests.stages.tiny_base import model_on_cpu, vocab_size


def batch_of(rows: int, width: int) -> Batch:
    documents = [tokens_of(width + 1, vocab_size=vocab_size(), seed=row) for row in range(rows)]
    return pack([[document] for document in documents], width)


@pytest.fixture
def model() -> LanguageModel:
    found = model_on_cpu()
    inject_lora(found, LoRASettings(4, 8.0), 0)
    return found


def test_weights_stay_and_gradients_are_gone(model: LanguageModel) -> None:
    trained = model.trainable()
    before = {name: tensor.numpy().copy() for name, tensor in trained.items()}
    measure_step(model, batch_of(4, 32), AdamW(trained, weight_decay=0.1))
    for name, tensor in trained.items():
        np.testing.assert_array_equal(tensor.numpy(), before[name])
        assert tensor.grad is None


def test_the_whole_batch_is_timed_within_the_budget(model: LanguageModel) -> None:
    found = measure_step(model, batch_of(4, 32))
    assert found.padded_tokens == 4 * 32
    assert found.method == "measured on one batch of 32 positions"
    assert found.seconds_per_token > 0
    assert found.update_seconds == 0


def test_without_a_budget_one_row_is_scaled_up(model: LanguageModel) -> None:
    found = measure_step(model, batch_of(4, 32), AdamW(model.trainable()), budget=0.0)
    assert found.padded_tokens == 32
    assert found.method == "scaled up from 1 of 4 rows of 32 positions"
    assert found.update_seconds > 0


def test_a_plan_multiplies_tokens_and_steps() -> None:
    found = time_plan(StepTime(0.01, 0.5, 64, "measured"), steps=10, padded_tokens=200, tokens=150)
    assert found.seconds_per_step == pytest.approx(2.5)
    assert found.seconds == pytest.approx(25)
    assert found.tokens_per_second == pytest.approx(60)
    assert found.method == "measured"


def test_a_part_of_a_batch_has_something_to_learn() -> None:
    whole = batch_of(3, 16)
    whole.labels[:, :8] = IGNORE
    part = part_of(whole, 1, 8)
    assert part.tokens.shape == part.starts.shape == (1, 8)
    assert part.n_supervised == 1
    assert part.labels[0, -1] >= 0
    np.testing.assert_array_equal(part.tokens, whole.tokens[:1, :8])


def test_a_target_that_is_made_up_is_one_of_the_data_set() -> None:
    whole = batch_of(3, 16)
    whole.labels[:, :8] = IGNORE
    places = np.where(whole.labels == IGNORE, -1, np.arange(48, dtype=np.int64).reshape(3, 16))
    part = part_of(replace(whole, places=places), 1, 8)
    assert part.places is not None
    assert part.places.tolist() == [[-1] * 7 + [8]]
    assert part.labels[0, -1] == whole.labels[0, 8]
    assert places[0, 7] == -1, "the whole batch stays as it was"


def test_the_values_of_a_regression_are_cut_too() -> None:
    whole = batch_of(3, 16)
    values = np.arange(48, dtype=np.float32).reshape(3, 16)
    part = part_of(Batch(**{**vars(whole), "values": values}), 2, 4)
    assert part.values is not None
    np.testing.assert_array_equal(part.values, values[:2, :4])

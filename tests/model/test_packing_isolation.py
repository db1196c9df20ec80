"""Packed = unpacked: a document has the loss and the gradient it has alone, whatever shares its row.

An epoch is computed from packed rows and from rows of their own, and held against every document in a batch of its
own: loss to 1e-5 and gradients to 1e-4 in float32, both to 1e-10 in float64 (`Tolerance` says what counts as zero).
Leaks are planted to show that the same comparison finds them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.data.examples import Examples
from entrenar_core.data.tasks import Task
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.heads import HeadSpec, SequenceModel, attach_head
from tests.model.layouts import (
    CLASSES,
    FLOAT32,
    FLOAT64,
    VOCAB,
    Tolerance,
    alone,
    differences,
    documents,
    epoch,
    places,
    read_back,
    step,
)
from tests.model.tiny import ARCHITECTURE_NAMES, DOUBLE, build, lively, tiny_spec

WINDOW = 220
"""Three blocks of queries for the CPU's attention, so that documents cross the borders of blocks."""

LENGTHS = {
    "ones": [1] * 7,
    "twos": [2] * 5,
    "typical": [20, 33, 41, 90, 64, 18, 27, 150],
    "full windows": [WINDOW] * 3,
    "mixed": [1, WINDOW, 2, 37, 1, WINDOW - 1, 96, 97, 5, WINDOW, 13, 60, 1, 3, 110],
}

tunings = pytest.mark.parametrize("tuning", ["full", "lora"])
both_precisions = pytest.mark.parametrize("backend", ["2 threads", "float64"], indirect=True)


@pytest.fixture(scope="module")
def backends() -> Iterator[dict[str, Backend]]:
    """The CPU's with memory that reads as NaN once it was handed back, so that no stale value helps."""
    cpus = {f"{count} threads": CpuBackend(count, debug_pool=True) for count in (1, 2)}
    yield {**cpus, "float64": DOUBLE}
    for cpu in cpus.values():
        cpu.close()


@pytest.fixture
def backend(backends: dict[str, Backend], request: pytest.FixtureRequest) -> Backend:
    return backends[request.param]


def tolerance_of(backend: Backend) -> Tolerance:
    return FLOAT64 if backend is DOUBLE else FLOAT32


def scaled(lengths: list[int], backend: Backend) -> list[int]:
    """The reference backend goes query by query, so its windows are a tenth as wide; 1 and 2 stay what they are."""
    return [length if length <= 2 or backend is not DOUBLE else -(-length // 10) for length in lengths]


def language_model(
    backend: Backend, architecture: str = "llama", tuning: str = "full", **options: Any
) -> LanguageModel:
    """D 32 with four query heads on two kv heads. Adapters have learned something, but do not drown their layers."""
    sizes = {"hidden_size": 32, "num_heads": 4, "num_kv_heads": 2, "intermediate_size": 48, "vocab_size": VOCAB}
    model = build(tiny_spec(architecture, **sizes), None, backend, **options)
    if tuning == "lora":
        for name, tensor in inject_lora(model, LoRASettings(rank=4, alpha=8.0), seed=0).items():
            tensor.assign(lively(name, tensor.shape) * (0.1 if name.endswith("lora_b") else 1.0))
    return model


def sequence_model(backend: Backend, task: Task, tuning: str = "full") -> SequenceModel:
    classes = CLASSES if task is Task.CLASSIFICATION else ()
    spec = HeadSpec(task, classes, "text", "answer", mean=10.0, std=4.0)
    head = [lively("cls.output.weight", (spec.n_outputs, 32)), lively("cls.output.bias", (spec.n_outputs,))]
    return attach_head(language_model(backend, tuning=tuning), spec, *head)


def differences_of_layouts(model: LanguageModel | SequenceModel, examples: Examples) -> dict[str, list[str]]:
    expected, tolerance = step(model, alone(examples)), tolerance_of(model.backend)
    return {
        name: differences(step(model, epoch(examples, packing=packing)), expected, tolerance)
        for name, packing in (("packed", True), ("unpacked", False))
    }


NONE: dict[str, list[str]] = {"packed": [], "unpacked": []}
# -- packed = unpacked = alone --------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("backend", ["1 threads", "2 threads", "float64"], indirect=True)
@tunings
def test_chats_learn_the_same_packed_unpacked_and_alone(architecture: str, backend: Backend, tuning: str) -> None:
    examples = documents(scaled(LENGTHS["mixed"], backend), Task.CHAT)
    assert differences_of_layouts(language_model(backend, architecture, tuning), examples) == NONE


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS.keys())
@both_precisions
@tunings
def test_texts_of_any_length_learn_the_same_in_any_layout(lengths: list[int], backend: Backend, tuning: str) -> None:
    examples = documents(scaled(lengths, backend))
    assert differences_of_layouts(language_model(backend, tuning=tuning), examples) == NONE


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
@both_precisions
@tunings
def test_a_head_learns_the_same_in_any_layout(task: Task, backend: Backend, tuning: str) -> None:
    examples = documents(scaled(LENGTHS["mixed"], backend), task)
    assert differences_of_layouts(sequence_model(backend, task, tuning), examples) == NONE


@both_precisions
@tunings
def test_packed_rows_with_activation_checkpointing_learn_what_documents_alone_do_without(
    backend: Backend, tuning: str
) -> None:
    examples = documents(scaled(LENGTHS["mixed"], backend), Task.CHAT)
    thrifty = language_model(backend, tuning=tuning, checkpoint_activations=True)
    expected = step(language_model(backend, tuning=tuning), alone(examples))
    assert differences(step(thrifty, epoch(examples, packing=True)), expected, tolerance_of(backend)) == []


SOME_WINDOW = 12
some_lengths = st.lists(
    st.one_of(st.sampled_from([1, 2, SOME_WINDOW]), st.integers(1, SOME_WINDOW)), min_size=1, max_size=10
)


@pytest.mark.property
@given(lengths=some_lengths, task=st.sampled_from(Task), seed=st.integers(0, 9), exact=st.booleans())
def test_any_set_of_documents_learns_the_same_in_any_layout(
    backends: dict[str, Backend], lengths: list[int], task: Task, seed: int, exact: bool
) -> None:
    backend = backends["float64" if exact else "1 threads"]
    has_head = task in (Task.CLASSIFICATION, Task.REGRESSION)
    model = sequence_model(backend, task) if has_head else language_model(backend)
    assert differences_of_layouts(model, documents(lengths, task, seed)) == NONE


# -- what one document does, another does not feel ------------------------------------------------------------------


def shared_rows(backend: Backend, task: Task = Task.TEXT) -> tuple[Batch, list[np.ndarray]]:
    """A batch of packed rows, and the positions of each of its documents."""
    (batch, *_) = epoch(documents(scaled(LENGTHS["mixed"], backend), task), packing=True)
    found = list(places(batch))
    assert len(found) >= 2 * len(batch.tokens)
    return batch, found


@both_precisions
def test_changing_a_document_changes_no_bit_of_another(backend: Backend) -> None:
    model = language_model(backend)
    batch, found = shared_rows(backend)
    before = model.hidden_states(batch.tokens, batch.positions, batch.starts).numpy()
    for place in found:
        other = replace(batch, tokens=np.where(place, (batch.tokens + 1) % VOCAB, batch.tokens))
        after = model.hidden_states(other.tokens, other.positions, other.starts).numpy()
        np.testing.assert_array_equal(after[~place], before[~place])
        assert (after[place] != before[place]).any(axis=-1).all()
        rest = np.where(place, IGNORE, batch.labels)
        losses = [float(model.loss(replace(each, labels=rest), 1.0, None).data) for each in (batch, other)]
        assert losses[0] == losses[1] != 0


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
@both_precisions
def test_changing_a_document_changes_its_own_answer_and_no_bit_of_another(task: Task, backend: Backend) -> None:
    model = sequence_model(backend, task)
    batch, found = shared_rows(backend, task)
    before = model.outputs(batch).numpy()
    for index, place in enumerate(found):
        other = replace(batch, tokens=np.where(place, (batch.tokens + 1) % VOCAB, batch.tokens))
        changed = (model.outputs(other).numpy() != before).any(axis=1)
        assert np.flatnonzero(changed).tolist() == [index]


@both_precisions
def test_the_gradient_of_a_document_reaches_its_own_tokens_and_exactly_none_of_another(backend: Backend) -> None:
    model = language_model(backend)
    batch, found = shared_rows(backend)
    words = np.zeros_like(batch.tokens)  # one for each document, and 0 for the padding
    for index, place in enumerate(found):
        words[place] = 1 + index
    batch = replace(batch, tokens=words)
    for index, place in enumerate(found):
        _, gradients = step(model, [replace(batch, labels=np.where(place, batch.labels, IGNORE))])
        assert np.flatnonzero(gradients["token_embd.weight"].any(axis=1)).tolist() == [1 + index]


# -- the comparison is not blind ------------------------------------------------------------------------------------


def row_is_one_document(batch: Batch) -> Batch:
    return replace(batch, starts=np.zeros_like(batch.starts))


def last_token_before_is_seen(batch: Batch) -> Batch:
    return replace(batch, starts=np.maximum(batch.starts - 1, 0))


def first_token_is_not_seen(batch: Batch) -> Batch:
    return replace(batch, starts=batch.starts + (batch.positions > 0).astype(np.int32))


def positions_stand_still(batch: Batch) -> Batch:
    return replace(batch, positions=np.zeros_like(batch.positions))


def label_is_the_next_token_of_the_row(batch: Batch) -> Batch:
    return replace(batch, labels=np.where(batch.labels == IGNORE, IGNORE, np.roll(batch.tokens, -1, axis=1)))


def positions_run_on(batch: Batch) -> Batch:
    return replace(
        batch, positions=np.broadcast_to(np.arange(batch.tokens.shape[1], dtype=np.int32), batch.tokens.shape)
    )


@pytest.mark.parametrize(
    "leak",
    [
        row_is_one_document,
        last_token_before_is_seen,
        first_token_is_not_seen,
        positions_stand_still,
        label_is_the_next_token_of_the_row,
    ],
)
@both_precisions
@tunings
def test_a_planted_leak_is_found(leak: Callable[[Batch], Batch], backend: Backend, tuning: str) -> None:
    examples = documents(scaled(LENGTHS["mixed"], backend), Task.CHAT)
    model = language_model(backend, tuning=tuning)
    leaky = step(model, [leak(batch) for batch in epoch(examples, packing=True)])
    found = differences(leaky, step(model, alone(examples)), tolerance_of(backend))
    assert {"loss", *model.trainable()} == set(found)


@pytest.mark.parametrize("task", [Task.CLASSIFICATION, Task.REGRESSION])
@both_precisions
def test_a_leak_between_documents_of_a_head_is_found(task: Task, backend: Backend) -> None:
    examples, model = documents(scaled(LENGTHS["mixed"], backend), task), sequence_model(backend, task)
    leaky = step(model, [last_token_before_is_seen(batch) for batch in epoch(examples, packing=True)])
    found = differences(leaky, step(model, alone(examples)), tolerance_of(backend))
    assert {"loss", *model.trainable()} == set(found)


def test_positions_restart_and_only_the_batch_can_tell() -> None:
    """RoPE turns by differences, so a document may stand anywhere: the loss is blind to where its positions begin."""
    examples = documents(scaled(LENGTHS["mixed"], DOUBLE), Task.CHAT)
    packed, expected = epoch(examples, packing=True), alone(examples)
    shifted = [positions_run_on(batch) for batch in packed]
    model = language_model(DOUBLE)
    assert differences(step(model, shifted), step(model, expected), FLOAT64) == []
    assert read_back(packed) == read_back(expected) != read_back(shifted)


# -- packing packs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("median", "spread", "window"),
    [(300, 0.9, 1024), (90, 0.7, 512), (20, 0.4, 128), (2000, 1.2, 2048)],
    ids=["chats", "instructions", "labelled sentences", "articles, many cut"],
)
@pytest.mark.parametrize("task", [Task.CHAT, Task.REGRESSION])
def test_packed_rows_are_nine_tenths_full_and_hold_each_document_once_and_whole(
    median: int, spread: float, window: int, task: Task
) -> None:
    draws = np.random.default_rng(0).lognormal(np.log(median), spread, 400)
    examples = documents(np.clip(draws, 1, window).astype(int).tolist(), task)
    packed = epoch(examples, packing=True, window=window)
    n_rows = sum(len(batch.tokens) for batch in packed)
    assert sum(batch.n_tokens for batch in packed) / (n_rows * window) >= 0.9
    assert read_back(packed) == read_back(alone(examples))

"""What a trained model is made of: where each tensor started, what was added, and what is written of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.codecs.registry import codec_for
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.lora.inject import LoRASettings, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import load_model
from entrenar_core.stages.changes import Changes
from tests.model.tiny import lively
from tests.stages import gguf_py
from tests.stages.tiny_base import layers_as, write_base

Q, UP, NORM = "blk.0.attn_q.weight", "blk.1.ffn_up.weight", "output_norm.weight"


@pytest.fixture
def base(tmp_path: Path) -> Iterator[GGUFFile]:
    with GGUFFile.open(write_base(tmp_path / "base.gguf", type_name="F16")) as file:
        yield file


def adapted(base: GGUFFile, pack_as: str | None = None) -> LanguageModel:
    """A model whose q_proj adapters, of scale 2, have been trained a while."""
    model = load_model(base, ReferenceBackend(np.float32), held_as=layers_as(base, pack_as))
    for name, tensor in inject_lora(model, LoRASettings(4, 8.0, targets=("q_proj",)), seed=1).items():
        tensor.assign(lively(name, tensor.shape))
    return model


def delta_of(model: LanguageModel, name: str) -> np.ndarray:
    parameters = model.parameters()
    return np.asarray(2.0 * parameters[f"{name}.lora_b"].numpy() @ parameters[f"{name}.lora_a"].numpy())


def rounded(base: GGUFFile, name: str, type_name: str) -> np.ndarray:
    codec = codec_for(type_name)
    return codec.decode(codec.encode(base.load(name)))


def test_an_adapter_is_added_to_the_weight_of_the_file(base: GGUFFile) -> None:
    model = adapted(base)
    values = Changes.of(model, base).values()
    assert values.keys() == {Q, "blk.1.attn_q.weight"}
    np.testing.assert_allclose(values[Q](), base.load(Q) + delta_of(model, Q), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0"])
def test_over_a_packed_base_the_weight_that_was_multiplied_by_is_what_is_added_to(
    base: GGUFFile, type_name: str
) -> None:
    model = adapted(base, type_name)
    values = Changes.of(model, base).values()
    assert values.keys() == model.packed_weights().keys(), "those without an adapter too: the forward pass used them"
    np.testing.assert_allclose(values[Q](), rounded(base, Q, type_name) + delta_of(model, Q), rtol=1e-5, atol=1e-6)
    assert np.array_equal(values[UP](), rounded(base, UP, type_name))


def test_blocks_that_are_those_of_the_file_are_no_change(tmp_path: Path) -> None:
    with GGUFFile.open(write_base(tmp_path / "blocks.gguf", type_name="Q4_0")) as base:
        model = adapted(base, "Q4_0")
        values = Changes.of(model, base).values()
        assert values.keys() == {Q, "blk.1.attn_q.weight"}
        expected = gguf_py.values(base.paths[0], Q) + delta_of(model, Q)
        np.testing.assert_allclose(values[Q](), expected, rtol=1e-5, atol=1e-6)


def test_weights_that_were_trained_themselves_are_the_values_and_their_difference_the_change(base: GGUFFile) -> None:
    model = load_model(base, ReferenceBackend(np.float32), trainable=True)
    model.parameters()[NORM].assign(np.full(32, 3.0))
    changes = Changes.of(model, base)
    assert changes.values().keys() == model.parameters().keys()
    assert (changes.values()[NORM]() == 3.0).all()
    delta = changes.delta(NORM)
    assert delta is not None
    np.testing.assert_array_equal(delta, 3.0 - base.load(NORM))


def test_a_tensor_that_training_did_not_touch_has_no_change(base: GGUFFile) -> None:
    changes = Changes.of(adapted(base, "Q4_0"), base)
    assert changes.delta(UP) is None
    assert np.array_equal(changes.start(UP), rounded(base, UP, "Q4_0"))
    assert np.array_equal(changes.start(NORM), base.load(NORM))
    assert np.array_equal(changes.start(UP, slice(3, 9)), rounded(base, UP, "Q4_0")[3:9])
    embedding = "token_embd.weight"
    assert np.array_equal(changes.start(embedding, slice(3, 9)), base.load(embedding)[3:9])


def test_values_are_fresh_each_time(base: GGUFFile) -> None:
    values = Changes.of(adapted(base), base).values()[Q]
    first = values()
    first += 1
    assert np.array_equal(values() + 1, first)

"""Adapters in a model: where they go, how they start, and what they compute."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import ConfigError, ModelError
from entrenar_core.lora.files import adapter_pairs
from entrenar_core.lora.inject import LoRASettings, adaptable_layers, inject_lora
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.module import PassKey
from tests.model.tiny import (
    ARCHITECTURE_NAMES,
    DOUBLE,
    build,
    lively,
    lively_weights,
    loss_and_gradients,
    pack,
    tiny_spec,
    tokens_of,
)

SETTINGS = LoRASettings(rank=3, alpha=6.0)
SEVEN = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


def adapted(settings: LoRASettings = SETTINGS, architecture: str = "llama", **options: Any) -> LanguageModel:
    """A model whose adapters have been trained a while: B is not zero any more."""
    model = build(tiny_spec(architecture), **options)
    for name, tensor in inject_lora(model, settings, seed=1).items():
        if name.endswith(".lora_b"):
            tensor.assign(lively(name, tensor.shape))
    return model


def modules_of(names: Sequence[str]) -> set[str]:
    return {name.split(".")[2] for name in names}


def test_all_means_the_seven_matrices_of_every_block() -> None:
    adapters = inject_lora(build(tiny_spec()), SETTINGS, seed=0)
    expected = {f"blk.{i}.{m}.weight.lora_{part}" for i in (0, 1) for m in SEVEN for part in "ab"}
    assert set(adapters) == expected


@pytest.mark.parametrize("targets", [("q_proj", "down_proj"), ("attn_q", "ffn_down"), ("attn_q", "down_proj")], ids=str)
def test_targets_have_the_names_of_either_world(targets: tuple[str, ...]) -> None:
    adapters = inject_lora(build(tiny_spec()), LoRASettings(2, 4.0, targets=targets), seed=0)
    assert modules_of(list(adapters)) == {"attn_q", "ffn_down"}
    assert len(adapters) == 2 * 2 * 2


def test_one_target_may_stand_alone() -> None:
    adapters = inject_lora(build(tiny_spec()), LoRASettings(2, 4.0, targets="v_proj"), seed=0)
    assert modules_of(list(adapters)) == {"attn_v"}


def test_a_target_that_is_no_module_is_refused_with_the_nearest_name() -> None:
    model = build(tiny_spec())
    with pytest.raises(ConfigError, match="unknown module 'q_porj'") as caught:
        inject_lora(model, LoRASettings(2, 4.0, targets=("v_proj", "q_porj")), seed=0)
    assert "q_proj" in str(caught.value.hint)
    assert len(model.trainable()) == len(model.parameters())  # nothing was frozen


def test_a_target_that_matches_no_layer_is_refused_with_those_there_are() -> None:
    model = build(tiny_spec())
    for block in model.blocks:
        del block.feed_forward.ffn_gate
    with pytest.raises(ModelError, match="'ffn_gate' matches no layer") as caught:
        inject_lora(model, LoRASettings(2, 4.0, targets=("gate_proj",)), seed=0)
    assert caught.value.hint == "its layers: q_proj, k_proj, v_proj, o_proj, up_proj, down_proj"
    assert len(model.trainable()) == len(model.parameters())


def test_no_target_at_all_is_refused() -> None:
    with pytest.raises(ModelError, match="no LoRA target is named"):
        inject_lora(build(tiny_spec()), LoRASettings(2, 4.0, targets=()), seed=0)


def test_a_second_adapter_does_not_replace_the_first() -> None:
    model = adapted()
    before = model.logits(tokens_of(1, 5))
    with pytest.raises(ModelError, match="has an adapter already"):
        inject_lora(model, SETTINGS, seed=2)
    np.testing.assert_array_equal(model.logits(tokens_of(1, 5)), before)


def test_only_adapters_are_trainable() -> None:
    model = build(tiny_spec("qwen2"))
    adapters = inject_lora(model, SETTINGS, seed=0)
    assert model.trainable() == adapters
    assert not model.parameters()["blk.0.attn_q.bias"].requires_grad


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
def test_a_fresh_adapter_changes_nothing(architecture: str) -> None:
    model = build(tiny_spec(architecture))
    tokens = tokens_of(2, 9)
    before = model.logits(tokens)
    inject_lora(model, SETTINGS, seed=0)
    np.testing.assert_array_equal(model.logits(tokens), before)


def test_a_starts_uniform_within_one_over_the_root_of_the_inputs_and_b_at_zero() -> None:
    adapters = inject_lora(build(tiny_spec()), LoRASettings(rank=64, alpha=1.0), seed=0)
    for name, tensor in adapters.items():
        values = tensor.numpy()
        if name.endswith(".lora_b"):
            assert not values.any()
            continue
        bound = values.shape[1] ** -0.5
        assert np.abs(values).max() <= bound
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.08)


def test_the_start_depends_on_the_seed_and_the_name_alone() -> None:
    everywhere = inject_lora(build(tiny_spec()), SETTINGS, seed=4)
    only_v = inject_lora(build(tiny_spec()), LoRASettings(3, 99.0, targets=("v_proj",)), seed=4)
    other_seed = inject_lora(build(tiny_spec()), SETTINGS, seed=5)
    name = "blk.1.attn_v.weight.lora_a"
    np.testing.assert_array_equal(only_v[name].numpy(), everywhere[name].numpy())
    assert (everywhere[name].numpy() != other_seed[name].numpy()).all()
    assert (everywhere[name].numpy() != everywhere["blk.0.attn_v.weight.lora_a"].numpy()).all()


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("rslora", [False, True], ids=["lora", "rslora"])
def test_folding_the_adapter_into_the_weights_gives_the_adapted_logits(architecture: str, rslora: bool) -> None:
    spec = tiny_spec(architecture)
    model = adapted(LoRASettings(rank=3, alpha=6.0, rslora=rslora), architecture)
    weights = {name: array.astype(np.float64) for name, array in lively_weights(spec).items()}
    for name, pair in adapter_pairs(model).items():
        weights[name] += pair.scale * pair.b @ pair.a
    tokens = tokens_of(2, 9)
    np.testing.assert_allclose(model.logits(tokens), build(spec, weights).logits(tokens), rtol=1e-9, atol=1e-11)


def test_the_scale_is_alpha_over_rank_and_over_its_root_for_rslora() -> None:
    assert LoRASettings(rank=16, alpha=8.0).scale == 0.5
    assert LoRASettings(rank=16, alpha=8.0, rslora=True).scale == 2.0


def test_gradients_of_a_and_b_are_those_of_the_folded_weight() -> None:
    """With W' = W + s·B·A: dA = s·Bᵀ dW', dB = s·dW' Aᵀ."""
    batch = pack([[tokens_of(9)]], 8)
    model = adapted()
    _, gradients = loss_and_gradients(model, batch)
    pairs = adapter_pairs(model)
    weights = {name: array.astype(np.float64) for name, array in lively_weights(model.spec).items()}
    for name, pair in pairs.items():
        weights[name] += pair.scale * pair.b @ pair.a
    _, full = loss_and_gradients(build(model.spec, weights), batch)
    for name, pair in pairs.items():
        np.testing.assert_allclose(gradients[f"{name}.lora_a"], pair.scale * pair.b.T @ full[name], atol=1e-10)
        np.testing.assert_allclose(gradients[f"{name}.lora_b"], pair.scale * full[name] @ pair.a.T, atol=1e-10)


def test_a_bias_stays_beside_the_adapter() -> None:
    model = adapted(LoRASettings(2, 2.0, targets=("attn_q",)), "qwen2")
    tokens = tokens_of(1, 6)
    before = model.logits(tokens)
    model.parameters()["blk.0.attn_q.bias"].assign(np.ones(16))
    assert np.abs(model.logits(tokens) - before).max() > 1e-3


def test_dropout_is_off_without_a_key() -> None:
    batch = pack([[tokens_of(9)]], 8)
    with_dropout, without = adapted(LoRASettings(3, 6.0, dropout=0.5)), adapted()
    assert loss_and_gradients(with_dropout, batch)[0] == loss_and_gradients(without, batch)[0]


def test_dropout_draws_the_same_mask_for_the_same_key_and_another_for_another() -> None:
    batch = pack([[tokens_of(9)]], 8)
    model = adapted(LoRASettings(3, 6.0, dropout=0.5))
    key = PassKey(seed=1, step=2, micro_batch=3)
    losses = [
        loss_and_gradients(model, batch, key=each)[0]
        for each in (key, key, PassKey(2, 2, 3), PassKey(1, 3, 3), PassKey(1, 2, 4), None)
    ]
    assert losses[0] == losses[1]
    assert len(set(losses)) == 5


def test_dropout_differs_between_modules_that_read_the_same_input() -> None:
    model = adapted(LoRASettings(3, 6.0, dropout=0.5))
    key = PassKey(1, 2, 3)
    layers = {layer.name: layer for _, _, layer in adaptable_layers(model)}
    masks = [DOUBLE.dropout(np.ones(64), 0.5, key.for_module(layers[f"blk.0.attn_{m}"].name)) for m in "qk"]
    assert (masks[0] != masks[1]).any()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_checkpointed_blocks_see_the_same_dropout(dtype: Any) -> None:
    batch, key = pack([[tokens_of(9)], [tokens_of(7, seed=2)]], 8), PassKey(1, 2, 3)
    settings = LoRASettings(3, 6.0, dropout=0.3)
    results = [
        loss_and_gradients(
            adapted(settings, backend=ReferenceBackend(dtype), checkpoint_activations=checkpointing), batch, key=key
        )
        for checkpointing in (False, True)
    ]
    assert results[0][0] == results[1][0]
    for name, grad in results[0][1].items():
        np.testing.assert_array_equal(results[1][1][name], grad, err_msg=name)


def test_gradients_with_dropout_are_those_of_finite_differences() -> None:
    """The mask is a constant of the pass, in the adapter's gradients and in what flows on below it."""
    batch, key = pack([[tokens_of(9)]], 8), PassKey(1, 2, 3)
    model = adapted(LoRASettings(3, 6.0, dropout=0.4))
    _, gradients = loss_and_gradients(model, batch, key=key)
    rng, eps = np.random.default_rng(3), 1e-6
    direction = {name: rng.standard_normal(tensor.shape) for name, tensor in model.trainable().items()}
    start = {name: tensor.numpy().copy() for name, tensor in model.trainable().items()}
    losses = []
    for sign in (1, -1):
        for name, tensor in model.trainable().items():
            tensor.assign(start[name] + sign * eps * direction[name])
        losses.append(float(model.loss(batch, 1.0, key).data))
    analytic = sum(float((gradients[name] * direction[name]).sum()) for name in start)
    assert (losses[0] - losses[1]) / (2 * eps) == pytest.approx(analytic, rel=1e-6)

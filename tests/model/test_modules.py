"""Modules, layers and the RoPE table: how parameters are found, frozen and multiplied by."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.errors import AutogradError
from entrenar_core.model.layers import Linear
from entrenar_core.model.module import PassKey
from entrenar_core.model.rope_table import RopeTable, inverse_frequencies
from tests.model.tiny import DOUBLE, build, lively, loss_and_gradients, pack, tiny_spec, tokens_of


def tensor(name: str, *shape: int, requires_grad: bool = False) -> Tensor:
    return Tensor(DOUBLE.asarray(lively(name, shape)), DOUBLE, requires_grad=requires_grad, name=name)


def test_parameters_are_found_in_lists_and_below_modules() -> None:
    names = list(build(tiny_spec()).parameters())
    assert names[0] == "token_embd.weight"
    assert names[-2:] == ["output_norm.weight", "output.weight"]
    assert names.index("blk.0.ffn_down.weight") < names.index("blk.1.attn_norm.weight")
    assert len(names) == 3 + 2 * 9


def test_freezing_takes_gradients_away() -> None:
    model = build(tiny_spec())
    loss_and_gradients(model, pack([[tokens_of(6)]], 5))
    model.freeze()
    assert model.trainable() == {}
    with pytest.raises(AutogradError, match="is frozen"):
        _ = model.parameters()["output.weight"].grad


def test_freezing_a_block_leaves_the_others_trainable() -> None:
    model = build(tiny_spec())
    model.blocks[0].freeze()
    assert {name.split(".")[1] for name in model.trainable() if name.startswith("blk.")} == {"1"}


def test_a_linear_layer_multiplies_by_the_transposed_weight_and_adds_its_bias() -> None:
    weight, bias, x = tensor("w.weight", 3, 4), tensor("w.bias", 3), tensor("x", 2, 5, 4)
    expected = x.numpy() @ weight.numpy().T + bias.numpy()
    for trainable in (False, True):
        weight.requires_grad = trainable
        np.testing.assert_allclose(Linear("w", weight, bias).forward(x, None).numpy(), expected, rtol=1e-12)


def test_a_frozen_weight_that_is_assigned_to_is_used_with_its_new_values() -> None:
    weight, x = tensor("w.weight", 3, 4), tensor("x", 2, 4)
    layer = Linear("w", weight)
    layer.forward(x, None)
    handle = layer.frozen_handle()
    assert layer.frozen_handle() is handle
    weight.assign(2 * weight.numpy())
    assert layer.frozen_handle() is not handle
    np.testing.assert_allclose(layer.forward(x, None).numpy(), x.numpy() @ weight.numpy().T, rtol=1e-12)


def test_every_pass_and_module_draws_its_own_mask() -> None:
    names = ("blk.0.attn_q", "blk.0.attn_k")
    keys = {
        PassKey(seed, step, micro_batch).for_module(name).mixed()
        for seed in (0, 1)
        for step in (0, 1)
        for micro_batch in (0, 1)
        for name in names
    }
    assert len(keys) == 16
    assert PassKey(1, 2, 3).for_module("a") == PassKey(1, 2, 3).for_module("a")


def test_frequencies_fall_from_one_by_powers_of_theta() -> None:
    spec = tiny_spec(rope_theta=10000.0)
    np.testing.assert_allclose(inverse_frequencies(spec, None), [1, 0.1, 0.01, 0.001], rtol=1e-12)


def test_linear_scaling_and_factors_slow_the_turning_down() -> None:
    spec = tiny_spec(rope_theta=10000.0, rope_scale=0.5)
    factors = np.array([1, 2, 4, 8], np.float32)
    np.testing.assert_allclose(inverse_frequencies(spec, factors), [0.5, 0.025, 0.00125, 6.25e-5], rtol=1e-12)


def test_a_partial_rotation_has_fewer_pairs() -> None:
    assert inverse_frequencies(tiny_spec(rope_dimensions=4), None).shape == (2,)


def test_angles_are_position_times_frequency() -> None:
    positions = np.array([[0, 1, 5]], np.int32)
    cos, sin = RopeTable(DOUBLE, np.array([1.0, 0.1])).angles(positions)
    assert cos.shape == sin.shape == (1, 3, 2)
    np.testing.assert_allclose(cos[0, 2], np.cos([5, 0.5]))
    np.testing.assert_allclose(sin[0, 1], np.sin([1, 0.1]))


def test_angles_do_not_depend_on_what_was_asked_for_before() -> None:
    table, later = RopeTable(DOUBLE, np.array([1.0, 0.1])), np.array([[3, 70_000, 255, 256]], np.int32)
    table.angles(np.array([[0, 1]], np.int32))
    np.testing.assert_array_equal(table.angles(later), RopeTable(DOUBLE, np.array([1.0, 0.1])).angles(later))
    np.testing.assert_array_equal(table.angles(later)[0][0, :, 0], np.cos(later[0]))

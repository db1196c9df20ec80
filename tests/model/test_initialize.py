"""Models from nothing: draws that depend on the seed and the tensor's name alone."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.model.initialize import INITIAL_STD, random_model, random_weight
from entrenar_core.model.load import expected_shapes
from tests.model.tiny import ARCHITECTURE_NAMES, DOUBLE, pack, tiny_spec, tokens_of


def draw(name: str, seed: int = 1, num_layers: int = 2) -> np.ndarray:
    return random_weight(name, (200, 100), num_layers, seed)


def test_the_same_seed_and_name_draw_the_same_values() -> None:
    np.testing.assert_array_equal(draw("blk.0.attn_q.weight"), draw("blk.0.attn_q.weight"))


def test_another_seed_or_name_draws_other_values() -> None:
    base = draw("blk.0.attn_q.weight")
    for other in (draw("blk.0.attn_q.weight", seed=2), draw("blk.1.attn_q.weight"), draw("blk.0.attn_k.weight")):
        assert abs(np.corrcoef(base.ravel(), other.ravel())[0, 1]) < 0.05


def test_a_tensor_does_not_depend_on_the_rest_of_the_model() -> None:
    """The first layer of a deeper model is the same, but for the matrices that depth scales."""
    shallow = random_model(tiny_spec(num_layers=1), DOUBLE, seed=3).parameters()
    deep = random_model(tiny_spec(num_layers=2), DOUBLE, seed=3).parameters()
    for name in ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.ffn_up.weight"):
        np.testing.assert_array_equal(shallow[name].numpy(), deep[name].numpy())


@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight", "blk.0.attn_v.weight", "blk.1.ffn_gate.weight"])
def test_matrices_have_the_initial_standard_deviation(name: str) -> None:
    values = draw(name)
    assert values.dtype == np.float32
    assert values.std() == pytest.approx(INITIAL_STD, rel=0.03)
    assert abs(values.mean()) < 1e-3


@pytest.mark.parametrize("name", ["blk.0.attn_output.weight", "blk.1.ffn_down.weight"])
def test_matrices_that_write_into_the_residual_stream_shrink_with_depth(name: str) -> None:
    assert draw(name, num_layers=8).std() == pytest.approx(INITIAL_STD / 4, rel=0.03)


@pytest.mark.parametrize("name", ["output_norm.weight", "blk.0.attn_norm.weight", "blk.0.attn_q_norm.weight"])
def test_norms_are_ones(name: str) -> None:
    np.testing.assert_array_equal(random_weight(name, (8,), 2, 0), np.ones(8, np.float32))


def test_biases_are_zeros() -> None:
    np.testing.assert_array_equal(random_weight("blk.0.attn_q.bias", (8,), 2, 0), np.zeros(8, np.float32))


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_random_model_is_complete_trainable_and_knows_nothing_yet(architecture: str, tied: bool) -> None:
    spec = tiny_spec(architecture, tie_embeddings=tied)
    model = random_model(spec, DOUBLE, seed=0)
    assert {name: tensor.shape for name, tensor in model.trainable().items()} == expected_shapes(spec)
    batch = pack([[tokens_of(30)]], 29)
    mean = float(model.loss(batch, 1 / batch.n_supervised, None).data)
    assert mean == pytest.approx(np.log(spec.vocab_size), rel=0.02)

"""Models from GGUF files: what a file must hold, and what it may hold besides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import ModelError
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import write_gguf
from entrenar_core.lora.files import AdapterPair, write_adapter
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import expected_shapes, load_mapped, load_model, read_rope_factors, read_spec
from entrenar_core.model.packed import PackedWeight
from tests.model.tiny import ARCHITECTURE_NAMES, build, lively_weights, tiny_spec, tokens_of, write_model


def load(path: Path, *, trainable: bool = False) -> LanguageModel:
    with GGUFFile.open(path) as file:
        return load_model(file, ReferenceBackend(np.float32), trainable=trainable)


def refusal(path: Path) -> ModelError:
    with pytest.raises(ModelError) as caught, GGUFFile.open(path) as file:
        read_spec(file)
    assert caught.value.where == str(path)
    return caught.value


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_written_model_computes_the_same_when_loaded(architecture: str, tied: bool, tmp_path: Path) -> None:
    spec = tiny_spec(architecture, tie_embeddings=tied, norm_eps=2.0**-16)
    model = load(write_model(tmp_path / "model.gguf", spec))
    assert model.spec == spec
    tokens = tokens_of(2, 9)
    np.testing.assert_array_equal(
        model.logits(tokens), build(spec, backend=ReferenceBackend(np.float32)).logits(tokens)
    )


def test_parameters_carry_the_names_of_the_file(tmp_path: Path) -> None:
    spec = tiny_spec("qwen3")
    parameters = load(write_model(tmp_path / "model.gguf", spec)).parameters()
    assert {name: tensor.shape for name, tensor in parameters.items()} == expected_shapes(spec)
    assert all(tensor.name == name for name, tensor in parameters.items())


def test_a_loaded_model_is_frozen_unless_it_shall_be_trained(tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", tiny_spec())
    assert load(path).trainable() == {}
    model = load(path, trainable=True)
    assert model.trainable().keys() == model.parameters().keys()


def test_tied_embeddings_are_one_parameter(tmp_path: Path) -> None:
    spec = tiny_spec(tie_embeddings=True)
    assert "output.weight" not in expected_shapes(spec)
    model = load(write_model(tmp_path / "model.gguf", spec), trainable=True)
    assert model.output.weight is model.token_embd.weight
    assert "output.weight" not in model.parameters()


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_smaller_floats_are_decoded(type_name: str, tmp_path: Path) -> None:
    spec = tiny_spec()
    model = load(write_model(tmp_path / "model.gguf", spec, type_name=type_name))
    expected = lively_weights(spec)
    for name, tensor in model.parameters().items():
        assert tensor.data.dtype == np.float32
        np.testing.assert_allclose(tensor.numpy(), expected[name], rtol=2.0**-8)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_a_mapped_model_computes_the_same_and_holds_its_matrices_in_the_file(type_name: str, tmp_path: Path) -> None:
    path = write_model(tmp_path / "model.gguf", tiny_spec(), type_name=type_name)
    tokens = tokens_of(2, 9)
    expected = load(path).logits(tokens)
    with GGUFFile.open(path) as file:
        model = load_mapped(file, ReferenceBackend(np.float32))
        np.testing.assert_allclose(model.logits(tokens), expected, rtol=1e-5, atol=1e-6)
        held = [block.attention.attn_q.weight for block in model.blocks] + [model.output.weight]
        assert all(isinstance(weight, PackedWeight) for weight in held)
        assert all(np.shares_memory(weight.matrix.blocks, file.raw(weight.name)) for weight in held)
        assert model.trainable() == {}


def test_rope_factors_divide_the_frequencies_and_are_no_parameter(tmp_path: Path) -> None:
    spec = tiny_spec()
    factors = np.array([1, 2, 3, 4], np.float32)
    path = write_model(tmp_path / "model.gguf", spec, lively_weights(spec) | {ROPE_FREQS: factors})
    with GGUFFile.open(path) as file:
        np.testing.assert_array_equal(read_rope_factors(file), factors)
    model = load(path, trainable=True)
    assert ROPE_FREQS not in model.parameters()
    plain = load(write_model(tmp_path / "plain.gguf", spec))
    tokens = tokens_of(1, 12)
    with_factors, without = model.logits(tokens), plain.logits(tokens)
    np.testing.assert_array_equal(with_factors[:, 0], without[:, 0])  # at position 0 nothing turns
    assert np.abs(with_factors[:, 1:] - without[:, 1:]).max() > 0.1


def test_a_model_without_rope_factors_has_none(tmp_path: Path) -> None:
    with GGUFFile.open(write_model(tmp_path / "model.gguf", tiny_spec())) as file:
        assert read_rope_factors(file) is None


def test_biases_are_required_where_the_architecture_has_them(tmp_path: Path) -> None:
    spec = tiny_spec("qwen2")
    weights = lively_weights(spec)
    del weights["blk.1.attn_k.bias"]
    error = refusal(write_model(tmp_path / "model.gguf", spec, weights))
    assert error.message == "the tensor blk.1.attn_k.bias is missing"


def test_biases_are_used_where_the_file_has_them(tmp_path: Path) -> None:
    spec, tokens = tiny_spec(), tokens_of(1, 5)
    plain = load(write_model(tmp_path / "plain.gguf", spec)).logits(tokens)
    for module, size in {"attn_q": 16, "attn_v": 8, "attn_output": 16, "ffn_gate": 24, "ffn_down": 16}.items():
        name = f"blk.1.{module}.bias"
        path = write_model(tmp_path / f"{module}.gguf", spec, lively_weights(spec) | {name: np.ones(size, np.float32)})
        model = load(path)
        assert name in model.parameters()
        assert np.abs(model.logits(tokens) - plain).max() > 1e-3, module


@pytest.mark.parametrize("missing", ["output_norm.weight", "blk.0.attn_q.weight", "blk.1.ffn_down.weight"])
def test_a_missing_tensor_is_named(missing: str, tmp_path: Path) -> None:
    spec = tiny_spec()
    weights = {name: array for name, array in lively_weights(spec).items() if name != missing}
    error = refusal(write_model(tmp_path / "model.gguf", spec, weights))
    assert error.message == f"the tensor {missing} is missing"


@pytest.mark.parametrize(
    "extra", ["blk.2.attn_q.weight", "blk.0.attn_q_norm.weight", "blk.0.ffn_gate_inp.weight", "output_norm.bias"]
)
def test_a_tensor_that_would_not_be_used_is_refused(extra: str, tmp_path: Path) -> None:
    spec = tiny_spec()
    error = refusal(
        write_model(tmp_path / "model.gguf", spec, lively_weights(spec) | {extra: np.ones((16, 16), np.float32)})
    )
    assert error.message == f"the tensor {extra} has no place in a llama model"
    assert error.hint is not None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("blk.0.attn_k.weight", (16, 16)),
        ("blk.1.ffn_down.weight", (24, 16)),
        ("output.weight", (41, 16)),
        ("output_norm.weight", (8,)),
        (ROPE_FREQS, (8,)),
    ],
)
def test_a_tensor_of_another_shape_is_named_with_both_shapes(name: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    spec = tiny_spec()
    error = refusal(
        write_model(tmp_path / "model.gguf", spec, lively_weights(spec) | {name: np.ones(shape, np.float32)})
    )
    assert error.message.startswith(f"the tensor {name} has shape {list(shape)}, expected [")


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    path = write_model(
        tmp_path / "model.gguf", tiny_spec(), metadata=[("general.architecture", MetadataValue.string("mamba"))]
    )
    assert refusal(path).message == "architecture 'mamba' is not supported"


def test_a_file_without_an_architecture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write_gguf(path, [("general.name", MetadataValue.string("nothing"))], [])
    assert refusal(path).message == "architecture None is not supported"


def test_a_vocabulary_is_said_to_be_no_model(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    write_gguf(path, [("general.architecture", MetadataValue.string("llama"))], [])
    assert refusal(path).hint == "this is a vocabulary or an adapter, not a model"


def test_an_adapter_is_said_to_be_no_model(tmp_path: Path) -> None:
    path = tmp_path / "adapter.gguf"
    pair = AdapterPair(np.ones((2, 16), np.float32), np.ones((16, 2), np.float32), 1.0)
    write_adapter(path, "llama", {"blk.0.attn_q.weight": pair}, alpha=2.0)
    assert refusal(path).hint == "this is a vocabulary or an adapter, not a model"

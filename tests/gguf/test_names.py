"""Tensor names both ways, module names, and the row order of rotary projections."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf.constants import MODEL_ARCH, MODEL_ARCH_NAMES
from gguf.tensor_mapping import get_tensor_name_map
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from entrenar_core.errors import ConfigError, FormatError, ModelError
from entrenar_core.gguf import names
from entrenar_core.gguf.reader import GGUFFile

HF_BLOCK = ["input_layernorm", "post_attention_layernorm"]
HF_BLOCK += [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
HF_GLOBAL = ["model.embed_tokens", "model.norm", "lm_head"]


def hugging_face_modules(architecture: str) -> list[str]:
    head_norms = ["self_attn.q_norm", "self_attn.k_norm"] if architecture == "qwen3" else []
    return HF_GLOBAL + [f"model.layers.{layer}.{name}" for layer in (0, 11) for name in HF_BLOCK + head_norms]


@pytest.mark.parametrize("architecture", names.ARCHITECTURES)
def test_names_are_those_of_gguf_py_and_come_back(architecture: str) -> None:
    arch = next(key for key, name in MODEL_ARCH_NAMES.items() if name == architecture)
    table = get_tensor_name_map(MODEL_ARCH(arch), 12)
    for module in hugging_face_modules(architecture):
        name = f"{module}.weight"
        ours = names.to_gguf(name, architecture)
        assert ours == f"{table.get_name(module)}.weight"
        assert names.to_hugging_face(ours, architecture) == name


def test_biases_keep_their_kind() -> None:
    assert names.to_gguf("model.layers.3.self_attn.q_proj.bias", "qwen2") == "blk.3.attn_q.bias"
    assert names.to_hugging_face("blk.3.attn_q.bias", "qwen2") == "model.layers.3.self_attn.q_proj.bias"


def test_rope_freqs_have_no_tensor_in_hugging_face() -> None:
    assert names.to_hugging_face("rope_freqs.weight", "llama") is None


@pytest.mark.parametrize(
    "name", ["blk.0.attn_q_norm.weight", "blk.x.attn_q.weight", "blk.01.attn_q.weight", "blk.0.attn_q.scale", "cls"]
)
def test_a_tensor_that_llama_does_not_have_is_refused(name: str) -> None:
    with pytest.raises(FormatError, match="llama has no tensor named"):
        names.to_hugging_face(name, "llama")
    with pytest.raises(FormatError, match="llama has no tensor named"):
        names.to_gguf("model.layers.0.self_attn.q_norm.weight", "llama")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown architecture 'mamba'"):
        names.to_gguf("lm_head.weight", "mamba")


@pytest.mark.parametrize(("typed", "gguf"), [*names.MODULES.items(), ("attn_q", "attn_q"), ("ffn_up", "ffn_up")])
def test_module_names_that_people_type_are_understood(typed: str, gguf: str) -> None:
    assert names.module_to_gguf(typed) == gguf
    assert names.module_to_gguf(names.module_to_hugging_face(gguf)) == gguf


def test_a_misspelt_module_gets_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="unknown module 'qproj'") as caught:
        names.module_to_gguf("qproj")
    assert "did you mean 'q_proj'?" in str(caught.value.hint)


def test_block_tensor_puts_a_name_together() -> None:
    assert names.block_tensor(3, "attn_q") == "blk.3.attn_q.weight"
    assert names.block_tensor(0, "attn_k", "bias") == "blk.0.attn_k.bias"


@pytest.mark.parametrize(
    ("name", "architecture", "permuted"),
    [
        ("blk.0.attn_q.weight", "llama", True),
        ("blk.12.attn_k.bias", "llama", True),
        ("blk.0.attn_q.weight.lora_b", "llama", True),
        ("blk.0.attn_q.weight.lora_a", "llama", False),
        ("blk.0.attn_v.weight", "llama", False),
        ("blk.0.attn_q_norm.weight", "llama", False),
        ("blk.0.attn_q.weight", "qwen2", False),
        ("blk.0.attn_q.weight", "qwen3", False),
    ],
)
def test_only_queries_and_keys_of_llama_are_permuted(name: str, architecture: str, permuted: bool) -> None:
    assert names.has_permuted_rows(name, architecture) is permuted


def test_the_two_halves_of_a_head_are_interleaved_in_gguf() -> None:
    rows = np.arange(12)
    assert names.permute_rope_rows(rows, 2).tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert names.permute_rope_rows(rows.reshape(12, 1), 1)[:4, 0].tolist() == [0, 6, 1, 7]


@pytest.mark.property
@given(heads=st.integers(1, 5), half=st.integers(1, 5), columns=st.integers(1, 4))
def test_unpermuting_undoes_permuting(heads: int, half: int, columns: int) -> None:
    array = np.arange(heads * 2 * half * columns).reshape(-1, columns)
    assert np.array_equal(names.unpermute_rope_rows(names.permute_rope_rows(array, heads), heads), array)
    assert np.array_equal(names.permute_rope_rows(names.unpermute_rope_rows(array, heads), heads), array)


def test_permuting_gives_a_new_array() -> None:
    array = np.arange(4)
    names.permute_rope_rows(array, 2)[0] = 9
    assert array.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("heads", [0, 4, 5])
def test_rows_that_do_not_divide_into_heads_are_refused(heads: int) -> None:
    with pytest.raises(FormatError, match="6 rows do not divide"):
        names.permute_rope_rows(np.zeros((6, 2)), heads)


def test_the_gguf_and_the_hugging_face_form_of_one_model_are_the_same_weights(shared_data: Path) -> None:
    """Holds names and permutation against a real converter's output."""
    models = shared_data / "models"
    hugging_face = load_file(models / "base-7m-hf" / "model.safetensors")
    file = GGUFFile.open(models / "base-7m-f16.gguf")
    heads = {
        "attn_q": file.metadata["llama.attention.head_count"],
        "attn_k": file.metadata["llama.attention.head_count_kv"],
    }
    assert {names.to_hugging_face(name, "llama") for name in file.tensors} == set(hugging_face)
    for name in file.tensors:
        values = file.load(name)
        if names.has_permuted_rows(name, "llama"):
            values = names.unpermute_rope_rows(values, heads[name.split(".")[2]])  # type: ignore[arg-type]
        assert np.array_equal(values, hugging_face[str(names.to_hugging_face(name, "llama"))].astype(np.float32))

"""PEFT adapters: A and B of each weight with their scale, in GGUF's row order; what is not exact is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import FormatError, ModelError
from entrenar_core.gguf.names import permute_rope_rows
from entrenar_core.lora.adapter import Adapter, check_adapter, open_adapter
from entrenar_core.lora.files import write_adapter
from tests.hugging_face.folder import save_tensors
from tests.lora.test_files import halves, pair, write_raw
from tests.model.tiny import lively

HEADS, KV_HEADS = 2, 1
PREFIX = "base_model.model.model.layers.0."
Q = f"{PREFIX}self_attn.q_proj"
CONFIG: dict[str, Any] = {
    "peft_type": "LORA",
    "r": 3,
    "lora_alpha": 6,
    "bias": "none",
    "use_rslora": False,
    "use_dora": False,
    "modules_to_save": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "init_lora_weights": True,
    "megatron_config": None,
}


def tensors(module: str = Q, rank: int = 3, n_out: int = 16, n_in: int = 16) -> dict[str, np.ndarray]:
    return {f"{module}.lora_A.weight": lively("a", (rank, n_in)), f"{module}.lora_B.weight": lively("b", (n_out, rank))}


def write_peft(folder: Path, arrays: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, **config}))
    save_tensors(folder / "adapter_model.safetensors", tensors() if arrays is None else arrays)
    return folder


def opened(folder: Path, architecture: str = "llama") -> Adapter:
    return open_adapter(folder, architecture, HEADS, KV_HEADS)


def test_the_change_is_that_of_the_module_in_gguf_row_order(tmp_path: Path) -> None:
    adapter = opened(write_peft(tmp_path / "peft"))
    assert adapter.shapes == {"blk.0.attn_q.weight": (16, 16)}
    delta = np.float32(2.0) * (lively("b", (16, 3)) @ lively("a", (3, 16)))
    np.testing.assert_allclose(adapter.pair("blk.0.attn_q.weight").delta(), permute_rope_rows(delta, HEADS), rtol=1e-5)
    other = opened(tmp_path / "peft", "qwen2")
    np.testing.assert_allclose(other.pair("blk.0.attn_q.weight").delta(), delta, rtol=1e-5)


def test_the_rows_of_k_are_sorted_by_the_heads_of_k(tmp_path: Path) -> None:
    module = f"{PREFIX}self_attn.k_proj"
    adapter = opened(write_peft(tmp_path / "peft", tensors(module, n_out=8)))
    np.testing.assert_array_equal(
        adapter.pair("blk.0.attn_k.weight").b, permute_rope_rows(lively("b", (8, 3)), KV_HEADS)
    )


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({}, 2.0),
        ({"lora_alpha": 1.5}, 0.5),
        ({"use_rslora": True}, 6 / np.sqrt(3)),
        ({"alpha_pattern": {"q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"self_attn.q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"^model.layers.0.self_attn.q_proj": 12}}, 4.0),
        ({"alpha_pattern": {"proj": 12, "^q_proj": 12, "k_proj": 12}}, 2.0),
        ({"r": 8, "rank_pattern": {"q_proj": 3}}, 2.0),
    ],
)
def test_the_scale_is_what_the_config_says_of_the_module(config: dict[str, Any], scale: float, tmp_path: Path) -> None:
    adapter = opened(write_peft(tmp_path / "peft", **config))
    assert adapter.pair("blk.0.attn_q.weight").scale == pytest.approx(scale)


def test_an_embedding_is_changed_by_the_transpose(tmp_path: Path) -> None:
    module = "base_model.model.model.embed_tokens"
    a, b = lively("a", (3, 40)), lively("b", (16, 3))
    arrays = {f"{module}.lora_embedding_A": a, f"{module}.lora_embedding_B": b}
    adapter = opened(write_peft(tmp_path / "peft", arrays))
    assert adapter.shapes == {"token_embd.weight": (40, 16)}
    np.testing.assert_allclose(adapter.pair("token_embd.weight").delta(), 2 * (b @ a).T, rtol=1e-5)


def test_a_gguf_adapter_of_an_embedding_has_a_transposed(tmp_path: Path) -> None:
    arrays = {"token_embd.weight.lora_a": lively("a", (40, 3)), "token_embd.weight.lora_b": lively("b", (16, 3))}
    adapter = opened(write_raw(tmp_path / "a.gguf", arrays))
    assert adapter.shapes == {"token_embd.weight": (40, 16)}
    expected = 2 * lively("a", (40, 3)) @ lively("b", (16, 3)).T
    np.testing.assert_allclose(adapter.pair("token_embd.weight").delta(), expected, rtol=1e-5)


def test_a_gguf_adapter_is_opened_alike(tmp_path: Path) -> None:
    write_adapter(tmp_path / "a.gguf", "llama", {"blk.0.attn_q.weight": pair()}, alpha=6.0)
    adapter = opened(tmp_path / "a.gguf")
    assert (adapter.shapes, list(adapter.paths)) == ({"blk.0.attn_q.weight": (16, 16)}, [tmp_path / "a.gguf"])
    np.testing.assert_array_equal(adapter.pair("blk.0.attn_q.weight").delta(), pair().delta())
    adapter.close()


@pytest.mark.parametrize(
    ("config", "key", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type", "adapters of type 'IA3' are not supported"),
        ({"use_dora": True}, "use_dora", "DoRA"),
        ({"lora_bias": True}, "lora_bias", "a bias in B"),
        ({"bias": "all"}, "bias", "train biases"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save", "replaces whole modules"),
        ({"layer_replication": [[0, 4]]}, "layer_replication", "repeat layers"),
        ({"target_parameters": ["x"]}, "target_parameters", "bare parameters"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices", "train some tokens"),
        ({"use_qalora": True}, "use_qalora", "QA-LoRA"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out", "transposed weights"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights", "changes the base weights too"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights", "changes the base weights too"),
        ({"r": 0}, "r", "expected a whole number above 0"),
        ({"lora_alpha": "x"}, "lora_alpha", "expected a number"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "alpha_pattern", "more than the end of a module's name"),
    ],
)
def test_what_cannot_be_put_on_a_model_exactly_is_refused_by_name(
    config: dict[str, Any], key: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=said) as caught:
        opened(write_peft(tmp_path / "peft", **config))
    assert caught.value.where == f"{tmp_path / 'peft' / 'adapter_config.json'}: {key}"


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "the adapter holds no tensors"),
        ({f"{Q}.lora_A.weight": np.ones((3, 16))}, "has only one of A and B"),
        ({f"{Q}.lora_magnitude_vector": np.ones(16)}, "no A or B of a LoRA adapter"),
        (tensors("base_model.model.model.layers.0.conv"), "llama has no tensor named"),
        (tensors(rank=4), r"its rank is 4, .* says 3"),
        ({**tensors(), f"{Q}.lora_B.weight": np.ones((16, 4))}, r"A \[3, 16\] and B \[16, 4\] do not fit"),
        ({**tensors(), f"{Q}.lora_B.weight": np.ones(16)}, r"A \[3, 16\] and B \[16\] do not fit"),
    ],
)
def test_tensors_that_do_not_make_an_adapter_are_refused(
    arrays: dict[str, np.ndarray], said: str, tmp_path: Path
) -> None:
    with pytest.raises(FormatError, match=said):
        opened(write_peft(tmp_path / "peft", arrays))


def test_the_folder_of_a_training_run_has_its_adapter(tmp_path: Path) -> None:
    write_raw(tmp_path / "adapter.gguf", halves())
    assert opened(tmp_path).paths == [tmp_path / "adapter.gguf"]
    write_peft(tmp_path)
    assert tmp_path / "adapter_model.safetensors" in opened(tmp_path).paths, "a PEFT folder says that it is one"


def test_a_path_that_is_no_adapter_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match=r"there is no adapter_config\.json and no adapter\.gguf"):
        opened(tmp_path)
    with pytest.raises(FormatError, match="a part of an adapter") as caught:
        opened(write_peft(tmp_path / "peft") / "adapter_model.safetensors")
    assert caught.value.hint == f"give its folder: {tmp_path / 'peft'}"
    with pytest.raises(ModelError, match="for a llama model, not qwen2"):
        opened(write_raw(tmp_path / "a.gguf", halves()), "qwen2")


def test_an_adapter_must_fit_the_model(tmp_path: Path) -> None:
    adapter = opened(write_peft(tmp_path / "peft"))
    check_adapter(adapter, {"blk.0.attn_q.weight": (16, 16)}, "peft")
    with pytest.raises(ModelError, match=r"the adapter has blk\.0\.attn_q\.weight, the model does not"):
        check_adapter(adapter, {}, "peft")
    with pytest.raises(ModelError, match=r"is for \[16, 16\], the model has \[16, 32\]"):
        check_adapter(adapter, {"blk.0.attn_q.weight": (16, 32)}, "peft")

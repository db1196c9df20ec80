"""config.json as GGUF keys: what our own loader reads from them, and what is refused as another kind of model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import EntrenarError, FormatError, ModelError
from entrenar_core.hugging_face.config import ModelConfig, read_config
from entrenar_core.hugging_face.json_object import JsonObject
from entrenar_core.hugging_face.rope import llama3_factors
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec, spec_from_metadata
from tests.hugging_face.folder import config_of
from tests.model.tiny import tiny_spec

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def read(architecture: str = "llama", **changes: Any) -> ModelConfig:
    return read_config(JsonObject(config_of(tiny_spec(architecture), **changes), "config.json"))


def spec_of(config: ModelConfig) -> DecoderSpec:
    metadata = {key: value.plain for key, value in config.entries}
    traits = traits_of(config.architecture, "test")
    return spec_from_metadata(traits, metadata, vocab_size=40, tie_embeddings=config.tied, source="test")


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_a_model_has_the_sizes_that_the_config_says(architecture: str) -> None:
    found, expected = spec_of(read(architecture)), tiny_spec(architecture)
    assert found.norm_eps == pytest.approx(expected.norm_eps)
    assert replace(found, norm_eps=expected.norm_eps) == expected
    assert spec_of(read(architecture, tie_word_embeddings=True)).tie_embeddings


def test_a_mistral_is_a_llama() -> None:
    config = read(model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=4096)
    assert config.architecture == "llama"
    assert spec_of(config).num_heads == 2


def test_what_a_config_may_leave_out() -> None:
    spec = spec_of(read(head_dim=None, num_key_value_heads=None, rope_parameters=None, hidden_act=None))
    assert (spec.head_dim, spec.num_kv_heads, spec.rope_theta) == (8, 2, 10000.0)


def test_the_rope_of_old_and_new_configs_is_the_same() -> None:
    new = read(rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5})
    old = read(rope_parameters=None, rope_theta=5e5, rope_scaling={"type": "linear", "factor": 4.0})
    assert new.entries == old.entries
    assert spec_of(new).rope_scale == 0.25
    assert spec_of(new).rope_theta == 5e5


def test_llama3_scales_long_waves_and_leaves_short_ones() -> None:
    factors = llama3_factors(5e5, 128, factor=8.0, low=1.0, high=4.0, original_context=8192)
    wavelengths = 2 * np.pi * 5e5 ** (np.arange(0, 128, 2) / 128)
    assert (factors[wavelengths < 8192 / 4] == 1).all()
    assert (factors[wavelengths > 8192] == 8).all()
    between = factors[(wavelengths > 8192 / 4) & (wavelengths < 8192)]
    assert len(between) > 3
    assert (np.diff(factors) >= 0).all()
    np.testing.assert_array_equal(
        read(rope_parameters={**LLAMA3, "rope_theta": 5e5}, head_dim=128).rope.factors, factors
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "gemma2"}, "models of type 'gemma2' are not supported"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "is no causal language model"),
        ({"auto_map": {"AutoModelForCausalLM": "modeling.X"}}, "brings code of its own (auto_map), which is never run"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantized in a way that is not supported"),
        ({"hidden_act": "gelu"}, "the activation 'gelu' is not supported"),
        ({"use_sliding_window": True}, "a sliding window"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope scaling 'yarn' is not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 4.0}}, "rope scaling 'dynamic'"),
        ({"partial_rotary_factor": 0.5}, "rotating a part of each head"),
    ],
)  # fmt: skip
def test_another_computation_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(**changes)
    assert said in caught.value.message
    assert str(caught.value.where).startswith("config.json")


@pytest.mark.parametrize(
    ("changes", "where", "said"),
    [
        ({"hidden_size": None}, "config.json: hidden_size", "the key is missing"),
        ({"hidden_size": "48"}, "config.json: hidden_size", "expected a whole number above 0, found '48'"),
        ({"hidden_size": True}, "config.json: hidden_size", "found True"),
        ({"num_hidden_layers": 0}, "config.json: num_hidden_layers", "found 0"),
        ({"num_hidden_layers": 1 << 40}, "config.json: num_hidden_layers", "found 1099511627776"),
        ({"rms_norm_eps": float("nan")}, "config.json: rms_norm_eps", "above 0 and below 3e+38, found nan"),
        ({"rope_theta": 1e308}, "config.json: rope_theta", "found 1e+308"),
        ({"tie_word_embeddings": 1}, "config.json: tie_word_embeddings", "expected true or false, found 1"),
        ({"rope_parameters": [1]}, "config.json: rope_parameters", "expected an object, found [1]"),
        ({"rope_parameters": {"rope_type": "linear"}}, "config.json: rope_parameters: factor", "the key is missing"),
        (
            {"rope_parameters": {**LLAMA3, "low_freq_factor": 4.0}},
            "config.json: rope_parameters: low_freq_factor",
            "4.0 must be below high_freq_factor, which is 4.0",
        ),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_key(changes: dict[str, Any], where: str, said: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(**changes)
    assert caught.value.where == where
    assert said in caught.value.message


@pytest.mark.parametrize("junk", [None, 0, -1, 1e400, [], {}, "x", [["x"]], {"a": None}])
@pytest.mark.parametrize("key", list(config_of(tiny_spec())))
def test_any_junk_is_read_or_refused(key: str, junk: Any) -> None:
    try:
        read(**{key: junk})
    except EntrenarError:
        return

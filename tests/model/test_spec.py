"""What a decoder's metadata means, and which metadata is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.errors import ModelError
from entrenar_core.model.initialize import spec_metadata
from entrenar_core.model.llama import TRAITS
from entrenar_core.model.registry import traits_of
from entrenar_core.model.spec import DecoderSpec, spec_from_metadata
from tests.model.tiny import ARCHITECTURE_NAMES, tiny_spec

MINIMAL: dict[str, object] = {
    "llama.embedding_length": 16,
    "llama.block_count": 2,
    "llama.feed_forward_length": 24,
    "llama.attention.head_count": 2,
    "llama.context_length": 64,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
}


def read(changes: dict[str, object] | None = None, *, without: str | None = None) -> DecoderSpec:
    """The spec of the smallest metadata that is enough, with some keys changed or one left out."""
    metadata = {key: value for key, value in (MINIMAL | (changes or {})).items() if key != without}
    return spec_from_metadata(TRAITS, metadata, vocab_size=40, tie_embeddings=False, source="model.gguf")


def test_what_metadata_leaves_out_has_the_defaults_of_llama_cpp() -> None:
    spec = read()
    assert (spec.num_kv_heads, spec.head_dim, spec.rope_dimensions) == (2, 8, 8)
    assert (spec.rope_theta, spec.rope_scale) == (10000.0, 1.0)


def test_sizes_follow_from_heads() -> None:
    spec = tiny_spec(num_heads=6, num_kv_heads=2, head_dim=8)
    assert (spec.query_size, spec.kv_size) == (48, 16)
    assert spec.softmax_scale == pytest.approx(8**-0.5)


@pytest.mark.parametrize("missing", MINIMAL)
def test_a_missing_key_is_named(missing: str) -> None:
    with pytest.raises(ModelError, match=missing.replace(".", r"\.")) as caught:
        read(without=missing)
    assert caught.value.where == "model.gguf"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("llama.block_count", 0, "must be positive"),
        ("llama.block_count", 2.0, "float"),
        ("llama.block_count", True, "bool"),
        ("llama.attention.head_count_kv", np.array([1, 2]), "differ by layer"),
        ("llama.attention.layer_norm_rms_epsilon", 0.0, "positive number"),
        ("llama.attention.layer_norm_rms_epsilon", float("nan"), "positive number"),
        ("llama.attention.layer_norm_rms_epsilon", float("inf"), "positive number"),
        ("llama.attention.layer_norm_rms_epsilon", "1e-5", "positive number"),
        ("llama.rope.freq_base", -1.0, "positive number"),
        ("llama.attention.value_length", 4, "value_length differs"),
        ("llama.attention.head_count_kv", 3, "2 heads are no multiple of 3 kv heads"),
        ("llama.rope.dimension_count", 7, "rope over 7 components"),
        ("llama.rope.dimension_count", 10, "rope over 10 components of a head of 8"),
        ("llama.rope.scaling.type", "yarn", "rope scaling 'yarn' is not supported"),
        ("llama.rope.scaling.attn_factor", 1.5, "attn_factor is not supported"),
        ("llama.attention.causal", False, "causal mask"),
        ("llama.expert_count", 8, "mixture-of-experts"),
    ],
)
def test_metadata_that_cannot_be_computed_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        read({key: value})
    assert caught.value.where == "model.gguf"


@pytest.mark.parametrize(
    "harmless", [{"llama.expert_count": 0}, {"llama.attention.causal": True}, {"llama.rope.scaling.attn_factor": 1.0}]
)
def test_keys_that_say_nothing_special_are_accepted(harmless: dict[str, object]) -> None:
    assert read(harmless) == read()


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"scaling.type": "linear", "scaling.factor": 4.0}, 0.25),
        ({"scaling.type": "linear", "scale_linear": 4.0}, 0.25),
        ({"scaling.factor": 4.0}, 0.25),
        ({"scale_linear": 4.0}, 0.25),
        ({"scaling.type": "none", "scaling.factor": 4.0}, 1.0),
        ({"scaling.type": "linear"}, 1.0),
        ({"scaling.factor": 0.0}, 1.0),
    ],
)
def test_linear_rope_scaling_is_read_as_llama_cpp_reads_it(keys: dict[str, Any], expected: float) -> None:
    assert read({f"llama.rope.{key}": value for key, value in keys.items()}).rope_scale == expected


@pytest.mark.parametrize("architecture", ARCHITECTURE_NAMES)
@pytest.mark.parametrize(
    "changes", [{}, {"head_dim": 12, "rope_dimensions": 6}, {"rope_scale": 0.125}, {"rope_theta": 1e6}]
)
def test_written_metadata_reads_back_as_the_same_spec(architecture: str, changes: dict[str, Any]) -> None:
    spec = tiny_spec(architecture, norm_eps=2.0**-16, **changes)
    metadata = {key: value.value for key, value in spec_metadata(spec, "a name")}
    assert (metadata["general.architecture"], metadata["general.name"]) == (architecture, "a name")
    assert metadata[f"{architecture}.vocab_size"] == spec.vocab_size
    traits = traits_of(architecture, "model.gguf")
    assert spec_from_metadata(traits, metadata, vocab_size=40, tie_embeddings=False, source="model.gguf") == spec


@pytest.mark.parametrize("name", ["gpt2", "llama4", "LLAMA", "", None, 7])
def test_an_unknown_architecture_is_named_with_the_known_ones(name: object) -> None:
    with pytest.raises(ModelError, match=f"architecture {name!r} is not supported") as caught:
        traits_of(name, "model.gguf")
    assert caught.value.where == "model.gguf"
    assert caught.value.hint == "supported architectures: llama, qwen2, qwen3"

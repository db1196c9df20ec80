"""What config.json says of a model, as GGUF keys."""

from __future__ import annotations

from dataclasses import dataclass

from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.hugging_face.json_object import JsonObject
from entrenar_core.hugging_face.rope import Rope, read_rope

ARCHITECTURE_OF: dict[str, str] = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
"""`model_type` -> GGUF architecture. Mistral is a llama under another name."""

_CAUSAL_MODELS = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")

Entries = list[tuple[str, MetadataValue]]


@dataclass(frozen=True)
class ModelConfig:
    """The sizes and constants of a model.

    Attributes:
        architecture: GGUF's name.
        n_heads, n_kv_heads, head_dim: of attention.
        tied: whether the embedding is the output matrix.
        rope: angles.
        entries: the GGUF keys of the architecture.
    """

    architecture: str
    n_heads: int
    n_kv_heads: int
    head_dim: int
    tied: bool
    rope: Rope
    entries: Entries


def read_config(config: JsonObject) -> ModelConfig:
    """The model that a config.json describes.

    Raises:
        ModelError: it is of a kind that is not supported.
        FormatError: a value is missing or wrong.
    """
    architecture = _architecture(config)
    _refuse_other_computations(config)
    hidden_size, n_heads = config.integer("hidden_size"), config.integer("num_attention_heads")
    head_dim = config.integer("head_dim", max(1, hidden_size // n_heads))
    n_kv_heads = config.integer("num_key_value_heads", n_heads)
    rope = read_rope(config, head_dim)
    values: dict[str, MetadataValue] = {
        keys.CONTEXT_LENGTH: MetadataValue.uint32(config.integer("max_position_embeddings")),
        keys.EMBEDDING_LENGTH: MetadataValue.uint32(hidden_size),
        keys.BLOCK_COUNT: MetadataValue.uint32(config.integer("num_hidden_layers")),
        keys.FEED_FORWARD_LENGTH: MetadataValue.uint32(config.integer("intermediate_size")),
        keys.HEAD_COUNT: MetadataValue.uint32(n_heads),
        keys.HEAD_COUNT_KV: MetadataValue.uint32(n_kv_heads),
        keys.KEY_LENGTH: MetadataValue.uint32(head_dim),
        keys.VALUE_LENGTH: MetadataValue.uint32(head_dim),
        keys.LAYER_NORM_RMS_EPSILON: MetadataValue.float32(config.number("rms_norm_eps", 1e-6)),
        keys.ROPE_DIMENSION_COUNT: MetadataValue.uint32(head_dim),
        keys.ROPE_FREQ_BASE: MetadataValue.float32(rope.theta),
    }
    if rope.linear_factor != 1.0:
        values[keys.ROPE_SCALING_TYPE] = MetadataValue.string("linear")
        values[keys.ROPE_SCALING_FACTOR] = MetadataValue.float32(rope.linear_factor)
    return ModelConfig(
        architecture,
        n_heads,
        n_kv_heads,
        head_dim,
        config.flag("tie_word_embeddings", False),
        rope,
        [(keys.architecture_key(architecture, key), value) for key, value in values.items()],
    )


def _architecture(config: JsonObject) -> str:
    model_type = config.text("model_type")
    if model_type not in ARCHITECTURE_OF:
        raise ModelError(
            f"models of type {model_type!r} are not supported",
            where=config.where,
            hint=f"supported: {', '.join(ARCHITECTURE_OF)}; others can be converted to GGUF by llama.cpp",
        )
    if "auto_map" in config:
        raise ModelError("the model brings code of its own (auto_map), which is never run", where=config.where)
    named = config.items_of("architectures")
    if named and named[0] not in _CAUSAL_MODELS:
        raise ModelError(f"{named[0]!r} is no causal language model", where=config.where)
    return ARCHITECTURE_OF[model_type]


def _refuse_other_computations(config: JsonObject) -> None:
    if "quantization_config" in config:
        raise ModelError(
            "the weights are quantized in a way that is not supported",
            where=config.where,
            hint="take the model that it was made from, or a GGUF",
        )
    activation = config.text("hidden_act", "silu")
    if activation != "silu":
        raise ModelError(f"the activation {activation!r} is not supported (known: silu)", where=config.where)
    if config.flag("use_sliding_window", False):
        raise ModelError("attention over a sliding window is not supported", where=config.where)

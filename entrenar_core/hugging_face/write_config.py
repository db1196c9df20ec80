"""config.json and generation_config.json of a model, from what GGUF's keys say."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from entrenar_core.errors import ModelError
from entrenar_core.gguf import keys
from entrenar_core.gguf.names import OUTPUT
from entrenar_core.hugging_face.rope import DEFAULT_THETA, Floats, llama3_settings

_CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
_DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_ROLES = {
    "bos_token_id": keys.TOKENIZER_BOS_ID,
    "eos_token_id": keys.TOKENIZER_EOS_ID,
    "pad_token_id": keys.TOKENIZER_PADDING_ID,
}
_ALSO_ENDING = (keys.TOKENIZER_EOT_ID, keys.TOKENIZER_EOM_ID)


class ModelKeys:
    """The keys of one architecture in GGUF metadata."""

    def __init__(self, metadata: Mapping[str, object], where: str) -> None:
        self.metadata = metadata
        self.where = where
        self.architecture = str(metadata.get(keys.GENERAL_ARCHITECTURE))

    def get(self, key: str) -> Any:
        return self.metadata.get(keys.architecture_key(self.architecture, key))

    def required(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ModelError(f"{keys.architecture_key(self.architecture, key)} is missing", where=self.where)
        return value

    def head_dim(self) -> int:
        width = int(self.required(keys.EMBEDDING_LENGTH))
        return int(self.get(keys.KEY_LENGTH) or width // int(self.required(keys.HEAD_COUNT)))


def writable_architecture(metadata: Mapping[str, object], where: str) -> str:
    """The architecture that GGUF metadata name. Raises ModelError when no Hugging Face folder can be written of it."""
    known = ModelKeys(metadata, where)
    if known.architecture not in _CLASSES:
        raise ModelError(
            f"models of architecture {known.architecture!r} cannot be written as a Hugging Face folder",
            where=where,
            hint=f"known: {', '.join(_CLASSES)}; write GGUF",
        )
    return known.architecture


def config_json(
    metadata: Mapping[str, object],
    names: Collection[str],
    *,
    n_rows: int,
    type_name: str,
    rope_factors: Floats | None,
    where: str,
) -> dict[str, Any]:
    """What config.json has to say.

    Args:
        metadata: GGUF keys and values of a model that our loader accepts, of a writable architecture.
        names: of its tensors, as GGUF has them.
        n_rows: of the embedding.
        type_name: that most tensors have.
        rope_factors: rope_freqs [E/2], or None.
        where: names the model in errors.

    Raises:
        ModelError: transformers has no such model.
    """
    known = ModelKeys(metadata, where)
    heads = int(known.required(keys.HEAD_COUNT))
    head_dim = known.head_dim()
    if known.get(keys.ROPE_DIMENSION_COUNT) not in (None, head_dim):
        raise ModelError("transformers rotates whole heads of such models, this one a part", where=where)
    return {
        "architectures": [_CLASSES[known.architecture]],
        "model_type": known.architecture,
        "hidden_size": int(known.required(keys.EMBEDDING_LENGTH)),
        "intermediate_size": int(known.required(keys.FEED_FORWARD_LENGTH)),
        "num_hidden_layers": int(known.required(keys.BLOCK_COUNT)),
        "num_attention_heads": heads,
        "num_key_value_heads": int(known.get(keys.HEAD_COUNT_KV) or heads),
        "head_dim": head_dim,
        "vocab_size": n_rows,
        "max_position_embeddings": int(known.required(keys.CONTEXT_LENGTH)),
        "rms_norm_eps": _shortest(known.required(keys.LAYER_NORM_RMS_EPSILON)),
        **_rope(known, head_dim, rope_factors),
        **_biases(known.architecture, names, where),
        "tie_word_embeddings": OUTPUT not in names,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "torch_dtype": _DTYPES[type_name],
        **_token_ids(metadata),
    }


def generation_config_json(metadata: Mapping[str, object]) -> dict[str, Any]:
    """What generation_config.json says: where a text begins and what ends it."""
    ids = _token_ids(metadata)
    ends = {int(str(metadata[key])) for key in _ALSO_ENDING if key in metadata}
    if ends and "eos_token_id" in ids:
        ids["eos_token_id"] = [ids["eos_token_id"], *sorted(ends - {ids["eos_token_id"]})]
    return {"_from_model_config": True, **ids}


def _token_ids(metadata: Mapping[str, object]) -> dict[str, Any]:
    return {name: int(str(metadata[key])) for name, key in _ROLES.items() if key in metadata}


def _rope(known: ModelKeys, head_dim: int, factors: Floats | None) -> dict[str, Any]:
    """In the form that transformers 4 and 5 read."""
    theta = _shortest(known.get(keys.ROPE_FREQ_BASE) or DEFAULT_THETA)
    scaling = _linear_scaling(known)
    if factors is not None and (factors != 1).any():
        found = llama3_settings(factors, theta, head_dim)
        if found is None or scaling is not None:
            raise ModelError(
                "config.json has no words for the frequencies in rope_freqs.weight",
                where=known.where,
                hint="write GGUF",
            )
        scaling = found
    return {"rope_theta": theta, "rope_scaling": scaling}


def _linear_scaling(known: ModelKeys) -> dict[str, Any] | None:
    kind = known.get(keys.ROPE_SCALING_TYPE)
    if kind not in (None, "none", "linear"):
        raise ModelError(f"rope scaling {kind!r} is not supported", where=known.where, hint="write GGUF")
    factor = known.get(keys.ROPE_SCALING_FACTOR) or known.get(keys.ROPE_SCALE_LINEAR) or 1.0
    return None if kind == "none" or factor == 1.0 else {"rope_type": "linear", "factor": _shortest(factor)}


def _biases(architecture: str, names: Collection[str], where: str) -> dict[str, bool]:
    """Which biases the model has. transformers has all of attention or none (qwen2: of q, k, v), and so for the MLP."""
    found = {name.split(".")[-2] for name in names if name.endswith(".bias")}
    attention = {"attn_q", "attn_k", "attn_v"} | (set() if architecture == "qwen2" else {"attn_output"})
    mlp = {"ffn_gate", "ffn_up", "ffn_down"}
    for group in (attention, mlp):
        if found & group and not found >= group:
            missing = min(group - found)
            raise ModelError(
                f"transformers has {missing}.bias in such a model, this one does not", where=where, hint="write GGUF"
            )
    if architecture == "llama":
        return {"attention_bias": bool(found & attention), "mlp_bias": bool(found & mlp)}
    return {"attention_bias": bool(found & attention)} if architecture == "qwen3" else {}


def _shortest(value: float) -> float:
    """The shortest decimal number that is this one in single precision: 1e-05 for what GGUF has."""
    return float(str(np.float32(value)))

"""Small Hugging Face folders, written with the safetensors library and plain JSON, from weights under GGUF names."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from entrenar_core.gguf.names import has_permuted_rows, to_hugging_face, unpermute_rope_rows
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.model.spec import DecoderSpec
from tests.model.tiny import lively_weights

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def config_of(spec: DecoderSpec, **changes: Any) -> dict[str, Any]:
    """A config.json; a change to None leaves a key out."""
    values = {
        "architectures": [CLASSES[spec.architecture]],
        "model_type": spec.architecture,
        "hidden_size": spec.hidden_size,
        "intermediate_size": spec.intermediate_size,
        "num_hidden_layers": spec.num_layers,
        "num_attention_heads": spec.num_heads,
        "num_key_value_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "vocab_size": spec.vocab_size,
        "max_position_embeddings": spec.context_length,
        "rms_norm_eps": spec.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_theta},
        "tie_word_embeddings": spec.tie_embeddings,
        "hidden_act": "silu",
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def in_their_order(weights: Mapping[str, np.ndarray], spec: DecoderSpec) -> dict[str, np.ndarray]:
    """The weights under Hugging Face's names, in its row order."""
    arrays = {}
    for name, values in weights.items():
        heads = spec.num_heads if ".attn_q." in name else spec.num_kv_heads
        permuted = has_permuted_rows(name, spec.architecture)
        arrays[str(to_hugging_face(name, spec.architecture))] = (
            unpermute_rope_rows(values, heads) if permuted else values
        )
    return arrays


def write_folder(
    folder: Path,
    spec: DecoderSpec,
    weights: Mapping[str, np.ndarray] | None = None,
    *,
    type_name: str = "F32",
    n_files: int = 1,
    tokenizer: Sequence[tuple[str, MetadataValue]] = (),
    extra: Mapping[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """A folder with the model. `extra` are more tensors, under their own names; `config` changes config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = in_their_order(lively_weights(spec) if weights is None else weights, spec) | dict(extra or {})
    names = list(arrays)
    (folder / "config.json").write_text(json.dumps(config_of(spec, **config)))
    if n_files == 1:
        save_tensors(folder / "model.safetensors", arrays, type_name)
    else:
        files = [f"model-{number:05}-of-{n_files:05}.safetensors" for number in range(1, n_files + 1)]
        places = {name: files[index % n_files] for index, name in enumerate(names)}
        for file in files:
            save_tensors(folder / file, {name: arrays[name] for name in names if places[name] == file}, type_name)
        index = {"metadata": {"total_size": 1}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    if tokenizer:
        write_tokenizer(folder, dict(tokenizer))
    return folder


def save_tensors(path: Path, arrays: Mapping[str, np.ndarray], type_name: str = "F32") -> None:
    """F32 or F16 by the library; BF16, which numpy lacks, byte by byte from float32 values that need no rounding."""
    if type_name != "BF16":
        kind = {"F32": np.float32, "F16": np.float16}[type_name]
        save_file({name: np.array(values, kind, order="C") for name, values in arrays.items()}, path)
        return
    header, data = {}, b""
    for name, values in arrays.items():
        upper = (np.array(values, np.float32, order="C").view(np.uint32) >> 16).astype("<u2").tobytes()
        header[name] = {
            "dtype": "BF16",
            "shape": list(values.shape),
            "data_offsets": [len(data), len(data) + len(upper)],
        }
        data += upper
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def tokenizer_json(entries: Mapping[str, MetadataValue]) -> dict[str, Any]:
    """The tokenizer.json of a byte-level vocabulary whose first token is its only special one."""
    tokens = entries["tokenizer.ggml.tokens"].value
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "added_tokens": [{"id": 0, "content": tokens[0], **added}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "vocab": {text: index for index, text in enumerate(tokens)},
            "merges": entries["tokenizer.ggml.merges"].value,
        },
    }


def write_tokenizer(folder: Path, entries: Mapping[str, MetadataValue]) -> None:
    """tokenizer.json and tokenizer_config.json of a byte-level vocabulary."""
    content = tokenizer_json(entries)
    special = content["added_tokens"][0]["content"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": special, "eos_token": {"content": special}}))

"""The torch twin of a model of ours: the same weights in transformers, and peft's adapters where ours has adapters."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import peft
import torch
import transformers

from entrenar_core.data.batch import Batch
from entrenar_core.gguf.names import has_permuted_rows, to_hugging_face, unpermute_rope_rows
from entrenar_core.lora.inject import LoRASettings
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.spec import DecoderSpec

ADAPTER_PARTS = {".lora_a": ".lora_A.weight", ".lora_b": ".lora_B.weight"}


def twin(ours: LanguageModel, lora: LoRASettings | None = None) -> Any:
    """A LlamaForCausalLM in fp32 that computes the function of `ours`; with `lora`, under peft, adapters copied."""
    spec = ours.spec
    model = transformers.LlamaForCausalLM(_configuration(spec))
    arrays = {name: _in_their_order(name, tensor.numpy(), spec) for name, tensor in ours.parameters().items()}
    weights = {name: array for name, array in arrays.items() if not name.endswith(tuple(ADAPTER_PARTS))}
    state = {str(to_hugging_face(name, spec.architecture)): _tensor(array) for name, array in weights.items()}
    model.load_state_dict(state, strict=not spec.tie_embeddings)
    if lora is None:
        return model
    adapters = {name: array for name, array in arrays.items() if name not in weights}
    return _with_adapters(model, lora, {_adapter_name(name, spec): _tensor(a) for name, a in adapters.items()})


def summed_loss(model: Any, batch: Batch) -> Any:
    """Σ -log p over the supervised tokens; each document of a row sees itself alone, with its own positions."""
    visible = torch.from_numpy(visible_keys(batch.starts))[:, None]
    output = model(
        input_ids=torch.from_numpy(batch.tokens).long(),
        position_ids=torch.from_numpy(batch.positions).long(),
        attention_mask=visible,
        use_cache=False,
    )
    labels = torch.from_numpy(batch.labels).long().reshape(-1)
    logits = output.logits.reshape(-1, output.logits.shape[-1])
    return torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum")


def visible_keys(starts: np.ndarray) -> np.ndarray:
    """bool [B, T, T] for starts int32 [B, T]: query i sees key j if j is in its document and not after it."""
    index = np.arange(starts.shape[1])
    seen: np.ndarray = (index <= index[:, None]) & (index >= starts[:, :, None])
    return seen


def _configuration(spec: DecoderSpec) -> Any:
    if spec.architecture != "llama":
        raise ValueError(f"no torch twin for {spec.architecture}")
    return transformers.LlamaConfig(
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        intermediate_size=spec.intermediate_size,
        num_hidden_layers=spec.num_layers,
        num_attention_heads=spec.num_heads,
        num_key_value_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.context_length,
        rms_norm_eps=spec.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": spec.rope_theta},
        tie_word_embeddings=spec.tie_embeddings,
        attn_implementation="sdpa",
    )


def _with_adapters(model: Any, lora: LoRASettings, state: dict[str, Any]) -> Any:
    logging.getLogger("peft").setLevel(logging.ERROR)
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        use_rslora=lora.rslora,
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(model, config)
    unexpected = peft.set_peft_model_state_dict(adapted, state).unexpected_keys
    trained = sum(parameter.requires_grad for parameter in adapted.parameters())
    if unexpected or trained != len(state):
        raise ValueError(f"{len(state)} adapter matrices for peft's {trained}; unexpected: {unexpected}")
    return adapted


def _adapter_name(name: str, spec: DecoderSpec) -> str:
    """``blk.0.attn_q.weight.lora_a`` to ``base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight``."""
    weight, part = name[:-7], name[-7:]
    module = str(to_hugging_face(weight, spec.architecture)).removesuffix(".weight")
    return f"base_model.model.{module}{ADAPTER_PARTS[part]}"


def _in_their_order(name: str, array: np.ndarray, spec: DecoderSpec) -> np.ndarray:
    """A of an adapter has the columns of its input, which no one permutes."""
    if name.endswith(".lora_a") or not has_permuted_rows(name, spec.architecture):
        return array
    return unpermute_rope_rows(array, spec.num_heads if ".attn_q." in name else spec.num_kv_heads)


def _tensor(array: np.ndarray) -> Any:
    return torch.from_numpy(np.array(array, np.float32))

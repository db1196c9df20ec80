"""Tiny random Hugging Face models, and the same weights under GGUF names in GGUF row order.

transformers computes norms, rotary angles and the softmax in float32 whatever the model's type; `in_double` puts the
plain formulas in their place, so that a double model is double throughout. The float32 models are left as they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import MethodType
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn import functional

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.gguf.names import has_permuted_rows, permute_rope_rows, to_gguf
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.registry import ARCHITECTURES
from entrenar_core.model.spec import DecoderSpec

VOCAB_SIZE = 96
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    "attn_implementation": "sdpa",
}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama rope_freqs": ("llama", {"rope_parameters": LLAMA3_ROPE, "head_dim": 16}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3 tied": ("qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
}
"""Name of the case -> architecture and what differs from the common sizes."""

_CLASSES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
}


@dataclass(frozen=True)
class Pair:
    """A Hugging Face model and what is needed to build ours with its weights."""

    hf: Any
    spec: DecoderSpec
    rope_factors: np.ndarray | None

    def weights(self) -> dict[str, np.ndarray]:
        """The weights by GGUF name, in GGUF row order, in the model's dtype."""
        return {name: self._in_gguf_order(name, parameter.detach().numpy()) for name, parameter in self._parameters()}

    def gradients(self) -> dict[str, np.ndarray]:
        """The gradients likewise."""
        return {name: self._in_gguf_order(name, parameter.grad.numpy()) for name, parameter in self._parameters()}

    def ours(self, backend: Backend, **options: Any) -> LanguageModel:
        """Our model on a backend, with copies of these weights, all trainable."""
        tensors = {
            name: Tensor(backend.asarray(array.copy()), backend, requires_grad=True, name=name)
            for name, array in self.weights().items()
        }
        return LanguageModel(self.spec, tensors, backend, rope_factors=self.rope_factors, **options)

    def _parameters(self) -> list[tuple[str, Any]]:
        return [(to_gguf(name, self.spec.architecture), each) for name, each in self.hf.named_parameters()]

    def _in_gguf_order(self, name: str, array: np.ndarray) -> np.ndarray:
        if not has_permuted_rows(name, self.spec.architecture):
            return array
        return permute_rope_rows(array, self.spec.num_heads if ".attn_q." in name else self.spec.num_kv_heads)


def make_pair(case: str, dtype: torch.dtype) -> Pair:
    """The model of a case with lively weights, the same ones (rounded to float32) in every dtype."""
    architecture, changes = CASES[case]
    config_class, model_class = _CLASSES[architecture]
    config = config_class(**(_SIZES | changes))
    model = model_class(config).to(torch.float32).eval()
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(_lively(name, parameter, generator))
    pair = Pair(model, _spec(architecture, config), _rope_factors(config))
    if dtype == torch.float64:
        in_double(pair)
    return pair


def in_double(pair: Pair) -> None:
    """Turn the model to double, with the formulas that transformers keeps in float32 in double too."""
    pair.hf.to(torch.float64)
    for module in pair.hf.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = MethodType(_double_norm, module)
    head_dim, theta = pair.spec.head_dim, pair.spec.rope_theta
    frequencies = theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)
    if pair.rope_factors is not None:
        frequencies = frequencies / torch.from_numpy(pair.rope_factors).double()

    def rotary(_: Any, x: Any, position_ids: Any) -> tuple[Any, Any]:
        angles = position_ids[..., None].double() * frequencies
        angles = torch.cat((angles, angles), dim=-1)
        return angles.cos(), angles.sin()

    pair.hf.model.rotary_emb.forward = MethodType(rotary, pair.hf.model.rotary_emb)


def summed_loss(model: Any, tokens: np.ndarray, labels: np.ndarray) -> Any:
    """Σ -log p(label) over the labels ≥ 0; tokens and labels [B, T], labels already shifted."""
    logits = model(torch.from_numpy(tokens).long(), use_cache=False).logits
    flat = logits.reshape(-1, logits.shape[-1])
    targets = torch.from_numpy(labels).long().reshape(-1)
    return functional.cross_entropy(flat, targets, ignore_index=-100, reduction="sum")


def _double_norm(self: Any, x: Any) -> Any:
    return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)


def _lively(name: str, parameter: Any, generator: torch.Generator) -> Any:
    noise = torch.randn(parameter.shape, generator=generator)
    if "norm" in name:
        return 1 + 0.2 * noise
    if name.endswith("bias"):
        return 0.3 * noise
    return noise if "embed_tokens" in name else 1.5 * noise / math.sqrt(parameter.shape[-1])


def _spec(architecture: str, config: Any) -> DecoderSpec:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return DecoderSpec(
        traits=ARCHITECTURES[architecture],
        num_layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=head_dim,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        context_length=config.max_position_embeddings,
        norm_eps=config.rms_norm_eps,
        rope_theta=config.rope_parameters["rope_theta"],
        rope_dimensions=head_dim,
        tie_embeddings=config.tie_word_embeddings,
    )


def _rope_factors(config: Any) -> np.ndarray | None:
    """rope_freqs.weight as llama.cpp's converter computes it from a llama3 configuration; None for plain RoPE."""
    rope = config.rope_parameters
    if rope["rope_type"] != "llama3":
        return None
    size = config.head_dim
    original, factor = rope["original_max_position_embeddings"], rope["factor"]
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    factors = []
    for i in range(0, size, 2):
        wavelength = 2 * math.pi * rope["rope_theta"] ** (i / size)
        smooth = (original / wavelength - low) / (high - low)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, np.float32)

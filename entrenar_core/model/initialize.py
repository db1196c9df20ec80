"""A model from nothing: random weights, and the GGUF metadata that describes it.

Matrices are drawn from N(0, 0.02²), those that write into the residual stream from N(0, 0.02²/2L) (Radford et al.
2019), norms are ones and biases zeros. Draws are keyed by (seed, tensor name), so no tensor depends on another.
"""

from __future__ import annotations

from zlib import crc32

import numpy as np

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.spec import DecoderSpec

INITIAL_STD = 0.02
_WRITES_RESIDUAL = ("attn_output", "ffn_down")


def random_weight(name: str, shape: tuple[int, ...], num_layers: int, seed: int) -> np.ndarray:
    """The start value of one tensor, float32."""
    if name.endswith("norm.weight"):
        return np.ones(shape, np.float32)
    if name.endswith(".bias"):
        return np.zeros(shape, np.float32)
    rng = np.random.default_rng([seed, crc32(name.encode())])
    writes_residual = name.split(".")[-2] in _WRITES_RESIDUAL
    std = INITIAL_STD / np.sqrt(2 * num_layers) if writes_residual else INITIAL_STD
    return rng.standard_normal(shape, np.float32) * np.float32(std)


def random_model(
    spec: DecoderSpec, backend: Backend, seed: int, *, checkpoint_activations: bool = False
) -> LanguageModel:
    """A model of this shape with random, trainable weights."""
    weights = {
        name: Tensor(
            backend.asarray(random_weight(name, shape, spec.num_layers, seed)), backend, requires_grad=True, name=name
        )
        for name, shape in expected_shapes(spec).items()
    }
    return LanguageModel(spec, weights, backend, checkpoint_activations=checkpoint_activations)


def spec_metadata(spec: DecoderSpec, name: str) -> list[tuple[str, MetadataValue]]:
    """The GGUF keys from which `spec_from_metadata` reads the same shape back.

    Args:
        spec: of the model.
        name: for general.name.
    """
    arch, uint32, float32 = spec.architecture, MetadataValue.uint32, MetadataValue.float32
    entries = [
        ("general.architecture", MetadataValue.string(arch)),
        ("general.name", MetadataValue.string(name)),
        (f"{arch}.context_length", uint32(spec.context_length)),
        (f"{arch}.embedding_length", uint32(spec.hidden_size)),
        (f"{arch}.block_count", uint32(spec.num_layers)),
        (f"{arch}.feed_forward_length", uint32(spec.intermediate_size)),
        (f"{arch}.attention.head_count", uint32(spec.num_heads)),
        (f"{arch}.attention.head_count_kv", uint32(spec.num_kv_heads)),
        (f"{arch}.attention.key_length", uint32(spec.head_dim)),
        (f"{arch}.attention.value_length", uint32(spec.head_dim)),
        (f"{arch}.attention.layer_norm_rms_epsilon", float32(spec.norm_eps)),
        (f"{arch}.rope.dimension_count", uint32(spec.rope_dimensions)),
        (f"{arch}.rope.freq_base", float32(spec.rope_theta)),
        (f"{arch}.vocab_size", uint32(spec.vocab_size)),
    ]
    if spec.rope_scale != 1.0:
        entries.append((f"{arch}.rope.scaling.type", MetadataValue.string("linear")))
        entries.append((f"{arch}.rope.scaling.factor", float32(1.0 / spec.rope_scale)))
    return entries

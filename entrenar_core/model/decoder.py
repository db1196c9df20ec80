"""The decoder that llama, qwen2 and qwen3 share: embedding, blocks of attention and SwiGLU, norm, output matrix.

One class serves training (`loss`), inspection (`logits`) and generation (`last_logits` with a KV cache).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from entrenar_core.autograd.checkpoint import checkpoint
from entrenar_core.autograd.ops import activation, attention, elementwise, loss, rope, shape
from entrenar_core.autograd.tape import current_tape, no_grad, scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend, WeightHandle
from entrenar_core.backend.documents import HostLower
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.data.batch import Batch
from entrenar_core.errors import AutogradError, ModelError
from entrenar_core.model.kv_cache import KVCache
from entrenar_core.model.layers import Embedding, InputRounding, Linear, RMSNorm
from entrenar_core.model.module import Module, PassKey
from entrenar_core.model.packed import PackedWeight
from entrenar_core.model.rope_table import RopeTable, inverse_frequencies
from entrenar_core.model.spec import DecoderSpec

Weights = Mapping[str, Tensor | PackedWeight]
"""Parameters by GGUF tensor name; matrices may be packed."""


@dataclass
class Taps:
    """What one forward pass leaves on the way, for who matches it with that of another model.

    Attributes:
        blocks: whose outputs are kept.
        attention: keep their queries and keys too; activations of these blocks are then not checkpointed.
        states: by block, the residual stream [B, T, D] after it.
        queries, keys: by block, [B, T, H, E] and [B, T, K, E], as attention sees them.
    """

    blocks: frozenset[int]
    attention: bool = False
    states: dict[int, Tensor] = field(default_factory=dict)
    queries: dict[int, Tensor] = field(default_factory=dict)
    keys: dict[int, Tensor] = field(default_factory=dict)

    def wants_attention(self, block: int) -> bool:
        return self.attention and block in self.blocks


@dataclass(frozen=True)
class PassState:
    """What all blocks of one forward pass share: angles, who sees whom, the mask key, the cache when generating, and
    what is to be kept."""

    cos: Array
    sin: Array
    lower: Array
    attention: AttentionParams
    key: PassKey | None
    cache: KVCache | None
    taps: Taps | None = None


def _linear(weights: Weights, name: str) -> Linear:
    bias = _tensor(weights, f"{name}.bias") if f"{name}.bias" in weights else None
    return Linear(name, weights[f"{name}.weight"], bias)


def _norm(weights: Weights, name: str, eps: float) -> RMSNorm:
    return RMSNorm(name, _tensor(weights, f"{name}.weight"), eps)


def _tensor(weights: Weights, name: str) -> Tensor:
    weight = weights[name]
    if isinstance(weight, PackedWeight):
        raise ModelError(f"{name} cannot be held in {weight.matrix.type_name} blocks: only matrices can")
    return weight


class Attention(Module):
    """Grouped-query attention with RoPE, and norms on q and k where the architecture has them.

    `cache_rounding`, where one is set, says which keys and values are seen in place of the computed ones.
    """

    cache_rounding: InputRounding | None = None

    def __init__(self, spec: DecoderSpec, weights: Weights, layer: int) -> None:
        prefix = f"blk.{layer}"
        self.spec = spec
        self.layer = layer
        self.attn_q = _linear(weights, f"{prefix}.attn_q")
        self.attn_k = _linear(weights, f"{prefix}.attn_k")
        self.attn_v = _linear(weights, f"{prefix}.attn_v")
        self.attn_output = _linear(weights, f"{prefix}.attn_output")
        self.attn_q_norm: RMSNorm | None = None
        self.attn_k_norm: RMSNorm | None = None
        if spec.traits.qk_norm:
            self.attn_q_norm = _norm(weights, f"{prefix}.attn_q_norm", spec.norm_eps)
            self.attn_k_norm = _norm(weights, f"{prefix}.attn_k_norm", spec.norm_eps)

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        spec = self.spec
        q = self._heads(self.attn_q, self.attn_q_norm, spec.num_heads, x, state)
        k = self._heads(self.attn_k, self.attn_k_norm, spec.num_kv_heads, x, state)
        v = self.attn_v.forward(x, state.key)
        v = shape.reshape(v, (*x.shape[:2], spec.num_kv_heads, spec.head_dim))
        if self.cache_rounding is not None:
            k, v = self.cache_rounding.rounded(k), self.cache_rounding.rounded(v)
        if state.taps is not None and state.taps.wants_attention(self.layer):
            state.taps.queries[self.layer], state.taps.keys[self.layer] = q, k
        with scope(f"blk.{self.layer}.attn"):
            if state.cache is not None:
                keys, values = state.cache.extend(self.layer, k.data, v.data)
                k, v = Tensor(keys, k.backend), Tensor(values, v.backend)
            attended = attention.attention(q, k, v, state.lower, state.attention)
            attended = shape.reshape(attended, (*x.shape[:2], spec.query_size))
        return self.attn_output.forward(attended, state.key)

    def _heads(
        self, projection: Linear, head_norm: RMSNorm | None, n_heads: int, x: Tensor, state: PassState
    ) -> Tensor:
        heads = shape.reshape(projection.forward(x, state.key), (*x.shape[:2], n_heads, self.spec.head_dim))
        if head_norm is not None:
            heads = head_norm.forward(heads)
        with scope(projection.name):
            return rope.rope(heads, state.cos, state.sin, self.spec.traits.rope_pairing)


class FeedForward(Module):
    """SwiGLU feed-forward: down(silu(gate(x))·up(x))."""

    def __init__(self, weights: Weights, layer: int) -> None:
        self.layer = layer
        self.ffn_gate = _linear(weights, f"blk.{layer}.ffn_gate")
        self.ffn_up = _linear(weights, f"blk.{layer}.ffn_up")
        self.ffn_down = _linear(weights, f"blk.{layer}.ffn_down")

    def forward(self, x: Tensor, key: PassKey | None) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        gate, up = self.ffn_gate.forward(x, key), self.ffn_up.forward(x, key)
        with scope(f"blk.{self.layer}.ffn"):
            hidden = activation.swiglu(gate, up)
        return self.ffn_down.forward(hidden, key)


class Block(Module):
    """One decoder layer: x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, spec: DecoderSpec, weights: Weights, layer: int) -> None:
        self.attn_norm = _norm(weights, f"blk.{layer}.attn_norm", spec.norm_eps)
        self.attention = Attention(spec, weights, layer)
        self.ffn_norm = _norm(weights, f"blk.{layer}.ffn_norm", spec.norm_eps)
        self.feed_forward = FeedForward(weights, layer)

    def forward(self, x: Tensor, state: PassState) -> Tensor:
        """x [B, T, D] -> [B, T, D]."""
        x = elementwise.add(x, self.attention.forward(self.attn_norm.forward(x), state))
        return elementwise.add(x, self.feed_forward.forward(self.ffn_norm.forward(x), state.key))


class LanguageModel(Module):
    """A causal language model on a backend.

    Args:
        spec: sizes and constants.
        weights: every parameter by GGUF name; see `model.load.expected_tensors`.
        backend: where it computes.
        rope_factors: rope_freqs.weight [P], if the model has it.
        checkpoint_activations: keep only the inputs of each block and run it again in backward.
    """

    def __init__(
        self,
        spec: DecoderSpec,
        weights: Weights,
        backend: Backend,
        *,
        rope_factors: np.ndarray | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        self.spec = spec
        self.backend = backend
        self.checkpoint_activations = checkpoint_activations
        self.token_embd = Embedding("token_embd", weights["token_embd.weight"])
        self.blocks = [Block(spec, weights, layer) for layer in range(spec.num_layers)]
        self.output_norm = _norm(weights, "output_norm", spec.norm_eps)
        head = "token_embd.weight" if spec.tie_embeddings else "output.weight"
        self.output = Linear("output", weights[head], full_precision=True)
        self._rope = RopeTable(backend, inverse_frequencies(spec, rope_factors))

    def hidden_states(
        self,
        tokens: np.ndarray,
        positions: np.ndarray,
        lower: np.ndarray,
        key: PassKey | None = None,
        cache: KVCache | None = None,
        taps: Taps | None = None,
    ) -> Tensor:
        """Final hidden states [B, T, D] after the output norm.

        Args:
            tokens: int32 [B, T].
            positions: int32 [B, T], for RoPE.
            lower: int32 [B, T], the first key that each query sees.
            key: of a training pass; None turns dropout off.
            cache: keys and values of earlier tokens, extended by these.
            taps: filled with what it asks for.

        Raises:
            ModelError: no tokens, or a token id outside the vocabulary.
            AutogradError: a tape is recording although there is a cache.
        """
        if tokens.size == 0:
            raise ModelError("there are no tokens to read")
        if cache is not None and current_tape() is not None:
            raise AutogradError("gradients do not flow through a KV cache", hint="generate inside no_grad()")
        self._check_ids("token", tokens)
        cos, sin = self._rope.angles(positions)
        before = 0 if cache is None else cache.length
        params = AttentionParams(scale=self.spec.softmax_scale, q_offset=before, host_lower=HostLower(lower))
        ids = self.backend.asarray(tokens, np.int32)
        state = PassState(cos, sin, self.backend.asarray(lower, np.int32), params, key, cache, taps)
        x = self.token_embd.forward(ids)
        for layer, block in enumerate(self.blocks):
            x = self._run_block(layer, block, x, state)
            if taps is not None and layer in taps.blocks:
                taps.states[layer] = x
        if cache is not None:
            cache.advance(tokens.shape[1])
        return self.output_norm.forward(x)

    def _run_block(self, layer: int, block: Block, x: Tensor, state: PassState) -> Tensor:
        is_tapped = state.taps is not None and state.taps.wants_attention(layer)
        if not self.checkpoint_activations or state.cache is not None or is_tapped:
            return block.forward(x, state)
        return checkpoint(lambda inner: block.forward(inner, state), x, trainable_inside=bool(block.trainable()))

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        """scale · Σ -log p(label) over the batch's supervised tokens, a float64 scalar; key None means evaluation.

        Raises:
            ModelError: a token id or label outside the vocabulary.
        """
        self.check_labels(batch)
        hidden = self.hidden_states(batch.tokens, batch.positions, batch.starts, key)
        with scope("output"):
            flat = shape.reshape(hidden, (-1, self.spec.hidden_size))
            return loss.linear_cross_entropy(flat, self.output_operand(), batch.labels.reshape(-1), scale)

    def check_labels(self, batch: Batch) -> None:
        """See that the labels of a batch are tokens.

        Raises:
            ModelError: one is outside the vocabulary.
        """
        self._check_ids("label", np.maximum(batch.labels, 0))

    def _check_ids(self, what: str, ids: np.ndarray) -> None:
        if not 0 <= ids.min() <= ids.max() < self.spec.vocab_size:
            raise ModelError(f"{what} ids {ids.min()}..{ids.max()} for a vocabulary of {self.spec.vocab_size}")

    def output_operand(self) -> Tensor | WeightHandle:
        """The output matrix [V, D], trainable or frozen."""
        return self.output.operand()

    def logits(self, tokens: np.ndarray) -> np.ndarray:
        """Logits [B, T, V] of whole sequences tokens int32 [B, T], on the host."""
        positions = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), tokens.shape)
        with no_grad():
            hidden = self.hidden_states(tokens, positions, np.zeros(tokens.shape, np.int32))
            return self.output.forward(hidden, None).numpy()

    def next_logits(self, tokens: np.ndarray, cache: KVCache) -> np.ndarray:
        """Logits [V] after reading tokens int32 [T] on top of what the cache of one row holds, on the host."""
        ids = np.asarray(tokens, np.int32)[None, :]
        positions = np.arange(cache.length, cache.length + ids.shape[1], dtype=np.int32)[None, :]
        return self.last_logits(ids, positions, np.zeros(ids.shape, np.int32), cache).reshape(-1)

    def last_logits(self, tokens: np.ndarray, positions: np.ndarray, lower: np.ndarray, cache: KVCache) -> np.ndarray:
        """Logits [B, V] at the last of tokens int32 [B, T], read on top of what the cache holds, on the host.

        Positions and lower are those of `hidden_states`.
        """
        with no_grad():
            hidden = self.hidden_states(tokens, positions, lower, cache=cache)
            last = shape.slice_(hidden, (slice(None), slice(-1, None)))
            return self.output.forward(last, None).numpy().reshape(len(tokens), -1)

"""Keys and values of the tokens that a model has already read, so that generating one more costs one token."""

from __future__ import annotations

from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import ModelError
from entrenar_core.model.spec import DecoderSpec


class KVCache:
    """Room for `capacity` tokens of `batch_size` sequences, for each layer."""

    def __init__(self, spec: DecoderSpec, backend: Backend, capacity: int, batch_size: int = 1) -> None:
        shape = (batch_size, capacity, spec.num_kv_heads, spec.head_dim)
        self.keys = [backend.zeros(shape) for _ in range(spec.num_layers)]
        self.values = [backend.zeros(shape) for _ in range(spec.num_layers)]
        self.capacity = capacity
        self.length = 0

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append k, v [B, T, K, E] of one layer; returns all keys and values so far [B, length + T, K, E].

        Raises:
            ModelError: the cache is full.
        """
        end = self.length + k.shape[1]
        if end > self.capacity:
            raise ModelError(f"the context of {self.capacity} tokens is full")
        self.keys[layer][:, self.length : end] = k
        self.values[layer][:, self.length : end] = v
        return self.keys[layer][:, :end], self.values[layer][:, :end]

    def advance(self, n_tokens: int) -> None:
        """Count the tokens that every layer has now appended."""
        self.length += n_tokens

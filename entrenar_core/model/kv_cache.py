"""Keys and values of the tokens that a model has already read, so that generating one more costs one token.

The rows of a cache are sequences of one length; rows that are done leave, and others take their places.
"""

from __future__ import annotations

from collections.abc import Collection

from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import ModelError
from entrenar_core.model.spec import DecoderSpec


class KVCache:
    """Room for `capacity` tokens of `batch_size` sequences, for each layer."""

    def __init__(self, spec: DecoderSpec, backend: Backend, capacity: int, batch_size: int = 1) -> None:
        shape = (batch_size, capacity, spec.num_kv_heads, spec.head_dim)
        self.keys = [backend.zeros(shape, backend.compute_dtype) for _ in range(spec.num_layers)]
        self.values = [backend.zeros(shape, backend.compute_dtype) for _ in range(spec.num_layers)]
        self.capacity = capacity
        self.length = 0
        self.n_rows = batch_size

    def extend(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append k, v [B, T, K, E] of one layer; returns all keys and values so far [B, length + T, K, E].

        Raises:
            ModelError: the cache is full.
        """
        end = self.length + k.shape[1]
        if end > self.capacity:
            raise ModelError(f"the context of {self.capacity} tokens is full")
        self.keys[layer][: self.n_rows, self.length : end] = k
        self.values[layer][: self.n_rows, self.length : end] = v
        return self.keys[layer][: self.n_rows, :end], self.values[layer][: self.n_rows, :end]

    def advance(self, n_tokens: int) -> None:
        """Count the tokens that every layer has now appended."""
        self.length += n_tokens

    def drop(self, rows: Collection[int]) -> list[int]:
        """Let rows leave, the last ones taking their places, which copies at most one row for each that leaves.

        Returns:
            The former number of each row that is left, in their new order.
        """
        leaving = set(rows)
        order = list(range(self.n_rows))
        for row in sorted(leaving, reverse=True):  # the last row is then one that stays, or the leaving one itself
            last = len(order) - 1
            if row != last:
                self._copy_row(last, row)
                order[row] = order[last]
            order.pop()
        self.n_rows = len(order)
        return order

    def rewind(self, length: int) -> None:
        """Forget what was appended after the first `length` tokens, so that something else can follow them.

        Raises:
            ModelError: there are fewer tokens.
        """
        if not 0 <= length <= self.length:
            raise ModelError(f"a cache of {self.length} tokens cannot be rewound to {length}")
        self.length = length

    def _copy_row(self, source: int, target: int) -> None:
        for array in (*self.keys, *self.values):
            array[target, : self.length] = array[source, : self.length]

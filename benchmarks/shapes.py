"""The model shapes that figures are quoted for, and the work of one training token on them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """A llama: D hidden, L layers, H heads, K kv heads, F feed-forward, V vocabulary; untied embeddings."""

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def matrix_weights(self) -> int:
        """Weights that multiply every token: all matrices but the embedding."""
        kv = self.kv_heads * self.head_dim
        block = 2 * self.hidden * self.hidden + 2 * self.hidden * kv + 3 * self.hidden * self.ffn
        return self.layers * block + self.hidden * self.vocab

    def lora_flops_per_token(self, seq_len: int) -> float:
        """Forward and input gradient through frozen matrices (4 a weight), and causal attention."""
        return 4.0 * self.matrix_weights + self.layers * 7.0 * seq_len * self.hidden

    def step_flops_per_token(self, seq_len: int, trains_all: bool) -> float:
        """What MFU counts: 6 a weight where all are trained, 4 beside frozen ones, and causal attention, forward and
        backward; nothing that is computed again, and no adapters."""
        attention = self.layers * 6.0 * seq_len * self.heads * self.head_dim
        return (6.0 if trains_all else 4.0) * self.matrix_weights + attention

    @property
    def n_weights(self) -> int:
        """All of them."""
        return self.matrix_weights + self.hidden * self.vocab + (2 * self.layers + 1) * self.hidden


S134 = Shape("s134", hidden=768, layers=12, heads=12, kv_heads=4, ffn=2048, vocab=32000)
TL1B = Shape("tl1b", hidden=2048, layers=22, heads=32, kv_heads=4, ffn=5632, vocab=32000)
LLAMA7B = Shape("llama7b", hidden=4096, layers=32, heads=32, kv_heads=32, ffn=11008, vocab=32000)
LLAMA70B = Shape("llama70b", hidden=8192, layers=80, heads=64, kv_heads=8, ffn=28672, vocab=32000)
PICO = Shape("pico", hidden=256, layers=2, heads=4, kv_heads=2, ffn=256, vocab=300)
"""For tests of the benchmarks themselves."""
BY_NAME = {shape.name: shape for shape in (S134, TL1B, LLAMA7B, LLAMA70B, PICO)}

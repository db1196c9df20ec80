"""transformers' config of a llama of one of our shapes, for the workers that train it with torch."""

from __future__ import annotations

from transformers import LlamaConfig

from benchmarks.shapes import Shape


def llama_config(shape: Shape, positions: int) -> LlamaConfig:
    """A llama with an output matrix of its own, for sequences of up to `positions` tokens, without a cache of keys."""
    return LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.ffn,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocab,
        max_position_embeddings=positions,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
        use_cache=False,
    )

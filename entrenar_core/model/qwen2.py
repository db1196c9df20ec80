"""qwen2: Qwen2 and Qwen2.5. Biases on q, k and v; RoPE turns component i with i + E/2."""

from __future__ import annotations

from entrenar_core.model.spec import Traits

TRAITS = Traits(architecture="qwen2", rope_pairing="halves", qkv_bias=True)

"""qwen3: dense Qwen3. Each head of q and k is normalised before RoPE, which turns component i with i + E/2."""

from __future__ import annotations

from entrenar_core.model.spec import Traits

TRAITS = Traits(architecture="qwen3", rope_pairing="halves", qk_norm=True)

"""llama: Llama 2 and 3.x (with rope_freqs), Mistral, TinyLlama, SmolLM. RoPE turns neighbouring components.

Mistral's sliding window is not applied, as llama.cpp does not apply it for this architecture either.
"""

from __future__ import annotations

from entrenar_core.model.spec import Traits

TRAITS = Traits(architecture="llama", rope_pairing="interleaved")

"""The angles of rotary position embedding, computed once for a batch and shared by its layers."""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.base import Array, Backend
from entrenar_core.model.spec import DecoderSpec


def inverse_frequencies(spec: DecoderSpec, factors: np.ndarray | None) -> np.ndarray:
    """Angle by position of each pair, float64 [P] (Su et al. 2021): rope_scale·theta^(-2i/rope_dimensions)/factors[i].

    `factors` is the GGUF tensor rope_freqs.weight, with which Llama 3.x stretches low frequencies.
    """
    exponents = np.arange(0, spec.rope_dimensions, 2, dtype=np.float64) / spec.rope_dimensions
    frequencies = spec.rope_scale * spec.rope_theta**-exponents
    return frequencies if factors is None else frequencies / factors.astype(np.float64)


def rope_angles(backend: Backend, positions: np.ndarray, frequencies: np.ndarray) -> tuple[Array, Array]:
    """cos and sin [B, T, P] for positions int32 [B, T]."""
    angles = positions[..., None].astype(np.float64) * frequencies
    return backend.asarray(np.cos(angles)), backend.asarray(np.sin(angles))

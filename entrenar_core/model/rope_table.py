"""The angles of rotary position embedding: computed once for each position, taken for each batch."""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.base import Array, Backend
from entrenar_core.model.spec import DecoderSpec

_FEWEST = 256
"""Positions of the first table."""


def inverse_frequencies(spec: DecoderSpec, factors: np.ndarray | None) -> np.ndarray:
    """Angle by position of each pair, float64 [P] (Su et al. 2021): rope_scale·theta^(-2i/rope_dimensions)/factors[i].

    `factors` is the GGUF tensor rope_freqs.weight, with which Llama 3.x stretches low frequencies.
    """
    exponents = np.arange(0, spec.rope_dimensions, 2, dtype=np.float64) / spec.rope_dimensions
    frequencies = spec.rope_scale * spec.rope_theta**-exponents
    return frequencies if factors is None else frequencies / factors.astype(np.float64)


class RopeTable:
    """Cosines and sines by position, on a backend; as many positions as were asked for so far, in powers of two.

    Args:
        backend: where they are held.
        frequencies: float64 [P]; see `inverse_frequencies`.
    """

    def __init__(self, backend: Backend, frequencies: np.ndarray) -> None:
        self._backend = backend
        self._frequencies = frequencies
        self._tables: tuple[Array, Array] | None = None
        self._size = 0

    def angles(self, positions: np.ndarray) -> tuple[Array, Array]:
        """cos and sin [B, T, P] for positions int32 [B, T], which are not negative."""
        self._grow(int(positions.max(initial=0)) + 1)
        assert self._tables is not None
        rows = self._backend.asarray(positions.reshape(-1), np.int32)
        shape = (*positions.shape, len(self._frequencies))
        cos, sin = (self._backend.take_rows(table, rows).reshape(shape) for table in self._tables)
        return cos, sin

    def _grow(self, size: int) -> None:
        if size > self._size:
            self._size = max(_FEWEST, 1 << (size - 1).bit_length())
            angles = np.arange(self._size, dtype=np.float64)[:, None] * self._frequencies
            self._tables = self._backend.asarray(np.cos(angles)), self._backend.asarray(np.sin(angles))

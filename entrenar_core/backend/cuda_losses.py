"""Losses of the CUDA backend."""

from __future__ import annotations

from entrenar_core.backend.base import Array, WeightHandle
from entrenar_core.backend.cuda_launch import CudaLaunch, check_shape

_CHUNK_BYTES = 256 << 20
"""Aim for the logits of one chunk: 2048 rows of a vocabulary of 32000 keep a GPU's products at their full rate."""


class CudaLosses(CudaLaunch):
    """The part of `Backend` that measures and differentiates logits, which are float32."""

    def loss_rows(self, n_columns: int, weight: WeightHandle | None) -> int:
        del weight
        return max(128, _CHUNK_BYTES // (4 * n_columns))

    def cross_entropy(self, logits: Array, labels: Array, grad_scale: float | None) -> Array:
        n_rows, width = logits.shape
        check_shape("cross_entropy", "labels", labels, (n_rows,))
        losses = self.empty((n_rows,))
        if grad_scale is None:
            logits = self.contiguous(logits)
        factor = (0.0 if grad_scale is None else grad_scale, grad_scale is not None)
        self.over_rows("loss", "cross_entropy", n_rows, width, logits, labels, losses, width, *factor)
        return losses

    def log_softmax(self, logits: Array, temperature: float) -> None:
        n_rows, width = logits.shape
        self.over_rows("loss", "log_softmax", n_rows, width, logits, width, 1 / temperature)

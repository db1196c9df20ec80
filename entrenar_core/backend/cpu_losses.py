"""Losses of the CPU backend: cross-entropy, and a student's distance from its teacher."""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.base import DistillationParams
from entrenar_core.backend.cpu_arguments import contiguous, indices, writable
from entrenar_core.backend.cpu_kernels import loss
from entrenar_core.backend.cpu_work import SharedWork
from entrenar_core.backend.reference_losses import ReferenceLosses

NDArray = np.ndarray[Any, np.dtype[Any]]


class CpuLosses(SharedWork):
    """The part of `Backend` that measures and differentiates logits."""

    def cross_entropy(self, logits: NDArray, labels: NDArray, grad_scale: float | None) -> NDArray:
        labels = indices("cross_entropy", labels, logits.shape[1])
        if len(labels) != len(logits):
            raise ValueError(f"cross_entropy: {labels.shape} labels do not fit logits {logits.shape}")
        losses = self.pool.empty(labels.shape)
        if grad_scale is None:
            self._over_rows(loss.cross_entropy, contiguous(logits), labels, losses)
        else:
            writable("cross_entropy", logits)
            self._over_rows(loss.cross_entropy_with_grad, logits, labels, losses, float(grad_scale))
        return losses

    def log_softmax(self, logits: NDArray, temperature: float) -> None:
        ReferenceLosses().log_softmax(logits, temperature)

    def distillation(
        self,
        logits: NDArray,
        teacher: NDArray,
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[NDArray, NDArray]:
        return ReferenceLosses().distillation(logits, teacher, targets, weights, params, scale)

    def distillation_top_k(
        self,
        logits: NDArray,
        ids: NDArray,
        values: NDArray,
        log_tail: NDArray,
        n: int,
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[NDArray, NDArray]:
        return ReferenceLosses().distillation_top_k(logits, ids, values, log_tail, n, targets, weights, params, scale)

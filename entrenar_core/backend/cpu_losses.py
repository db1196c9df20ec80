"""Losses of the CPU backend: cross-entropy, and a student's distance from its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from entrenar_core.backend.base import WeightHandle
from entrenar_core.backend.cpu_arguments import contiguous, indices, like, vector, writable
from entrenar_core.backend.cpu_kernels import distillation as kernels
from entrenar_core.backend.cpu_kernels import divergence, embedding, loss
from entrenar_core.backend.cpu_work import SharedWork
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.codecs.packed import PackedMatrix

NDArray = np.ndarray[Any, np.dtype[Any]]

_KINDS = {
    "forward_kl": divergence.FORWARD_KL,
    "reverse_kl": divergence.REVERSE_KL,
    "symmetric_kl": divergence.SYMMETRIC_KL,
    "jensen_shannon": divergence.JENSEN_SHANNON,
    "logit_mse": divergence.LOGIT_MSE,
}
_CHUNK_BYTES = 16 << 20
"""Aim for the logits of one chunk: small enough for the last-level cache, large enough for a fast product."""

_PACKED_CHUNK_BYTES = 64 << 20
"""The same with an output matrix in blocks, which is decoded twice for each chunk: with 512 rows for a vocabulary of
32000, decoding is a few percent of the products."""

_POWERS = {1.0: 1, 2.0: 2}
"""Temperatures at which the plain softmax is that power of the tempered one."""


class CpuLosses(SharedWork):
    """The part of `Backend` that measures and differentiates logits."""

    def loss_rows(self, n_columns: int, weight: WeightHandle | None) -> int:
        n_bytes, least = (_PACKED_CHUNK_BYTES, 128) if isinstance(weight, PackedMatrix) else (_CHUNK_BYTES, 16)
        return max(least, n_bytes // (4 * n_columns))

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
        self._over_rows(kernels.log_softmax, writable("log_softmax", logits), 1 / temperature)

    def distillation(
        self,
        logits: NDArray,
        teacher: NDArray,
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[NDArray, NDArray]:
        n_rows, vocab = logits.shape
        if teacher.ndim != 2 or len(teacher) != n_rows or not 0 < teacher.shape[1] <= vocab:
            raise ValueError(f"distillation: a teacher's {teacher.shape} for logits {logits.shape}")
        return self._distil(kernels.distillation, logits, (contiguous(teacher),), targets, weights, params, scale)

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
        n_rows, vocab = logits.shape
        if ids.ndim != 2 or len(ids) != n_rows or not 0 < ids.shape[1] <= n <= vocab:
            raise ValueError(f"distillation: ids {ids.shape} of {n} tokens for logits {logits.shape}")
        values = like("distillation", values, ids)
        if ids.shape[1] == n:
            teacher = self.pool.empty((n_rows, n))
            np.put_along_axis(teacher, ids, values, axis=-1)
            return self.distillation(logits, teacher, targets, weights, params, scale)
        ids = indices("distillation", ids.reshape(-1), n).reshape(ids.shape)
        known = (ids, values, vector("distillation", log_tail, n_rows), n)
        return self._distil(
            kernels.distillation_top_k, writable("distillation", logits), known, targets, weights, params, scale
        )

    def take_columns(self, x: NDArray, columns: NDArray) -> NDArray:
        columns = indices("take_columns", columns, x.shape[1])
        taken = self.pool.empty((len(x), len(columns)))
        self._over_rows(embedding.take_columns, contiguous(x), columns, taken)
        return taken

    def add_to_columns(self, x: NDArray, columns: NDArray, values: NDArray) -> None:
        columns = indices("add_to_columns", columns, x.shape[1])
        if values.shape != (len(x), len(columns)):
            raise ValueError(f"add_to_columns: {values.shape} for {len(columns)} columns of {x.shape}")
        self._over_rows(embedding.add_to_columns, writable("add_to_columns", x), columns, contiguous(values))

    def _distil(
        self,
        kernel: Callable[..., None],
        logits: NDArray,
        known: tuple[Any, ...],
        targets: NDArray | None,
        weights: NDArray | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[NDArray, NDArray]:
        n_rows, vocab = logits.shape
        if params.alpha == 1 or targets is None:
            if params.alpha < 1:
                raise ValueError("distillation: alpha < 1 needs targets")
            targets = np.zeros(n_rows, np.int32)
        elif targets.shape == (n_rows,):
            targets = indices("distillation", targets, vocab)
        else:
            raise ValueError(f"distillation: {targets.shape} targets do not fit logits {logits.shape}")
        weights = np.ones(n_rows, np.float32) if weights is None else vector("distillation", weights, n_rows)
        divergences, losses = self.pool.empty((n_rows,)), self.pool.empty((n_rows,))
        with_grad = scale is not None
        logits = writable("distillation", logits) if with_grad else contiguous(logits)
        results = (targets, weights, divergences, losses)
        self._over_rows(kernel, logits, *known, *results, *_settings(params, scale), with_grad)
        if params.alpha == 1:
            losses[...] = 0
        return divergences, losses


def _settings(params: DistillationParams, scale: float | None) -> tuple[int, float, float, int, tuple[float, float]]:
    """kind, temperature, beta, power and factors, as the kernels take them."""
    temperature = 1.0 if params.kind == "logit_mse" else float(params.temperature)
    power = 0 if params.kind == "logit_mse" else _POWERS.get(temperature, 0)
    scale = 0.0 if scale is None else float(scale)
    factors = (scale * params.alpha * temperature, scale * (1 - params.alpha))
    return _KINDS[params.kind], temperature, float(params.beta), -1 if params.alpha == 1 else power, factors

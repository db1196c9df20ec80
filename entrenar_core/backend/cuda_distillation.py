"""A student's distance from its teacher on the CUDA backend, with the gradient of its logits."""

from __future__ import annotations

from typing import Any

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import CudaLaunch, check_shape
from entrenar_core.backend.parameters import DistillationParams

_KINDS = ("forward_kl", "reverse_kl", "symmetric_kl", "jensen_shannon", "logit_mse")
"""In the order of `distillation.cu`."""


class CudaDistillation(CudaLaunch):
    """The part of `Backend` that compares a student with a teacher. Logits, and what is known of them, are float32."""

    def distillation(
        self,
        logits: Array,
        teacher: Array,
        targets: Array | None,
        weights: Array | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[Array, Array]:
        n_rows, width = logits.shape
        if teacher.ndim != 2 or len(teacher) != n_rows or not 0 < teacher.shape[1] <= width:
            raise ValueError(f"distillation: a teacher's {teacher.shape} for logits {logits.shape}")
        sizes = (width, teacher.shape[1])
        known = (self.contiguous(teacher),)
        return self._distil("distillation", logits, known, sizes, targets, weights, params, scale)

    def distillation_top_k(
        self,
        logits: Array,
        ids: Array,
        values: Array,
        log_tail: Array,
        n: int,
        targets: Array | None,
        weights: Array | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[Array, Array]:
        n_rows, width = logits.shape
        if ids.ndim != 2 or len(ids) != n_rows or not 0 < ids.shape[1] <= n <= width:
            raise ValueError(f"distillation: ids {ids.shape} of {n} tokens for logits {logits.shape}")
        check_shape("distillation", "values", values, ids.shape)
        check_shape("distillation", "log_tail", log_tail, (n_rows,))
        ids, values = self.contiguous(ids), self.contiguous(values)
        if ids.shape[1] == n:
            teacher = self.empty((n_rows, n))
            self.over_rows("distillation", "spread_known", n_rows, n, ids, values, teacher, n)
            return self.distillation(logits, teacher, targets, weights, params, scale)
        known = (ids, values, self.contiguous(log_tail), self.empty(ids.shape))
        sizes = (width, n, ids.shape[1])
        return self._distil("distillation_top_k", logits, known, sizes, targets, weights, params, scale)

    def _distil(
        self,
        kernel: str,
        logits: Array,
        known: tuple[Array, ...],
        sizes: tuple[int, ...],
        targets: Array | None,
        weights: Array | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[Array, Array]:
        n_rows, width = logits.shape
        if params.alpha == 1:
            targets = None
        elif targets is None:
            raise ValueError("distillation: alpha < 1 needs targets")
        else:
            check_shape("distillation", "targets", targets, (n_rows,))
        if weights is not None:
            check_shape("distillation", "weights", weights, (n_rows,))
        if scale is None:
            logits = self.contiguous(logits)
        divergences, losses = self.empty((n_rows,)), self.empty((n_rows,))
        arrays = (logits, *known, targets, weights, divergences, losses)
        self.over_rows("distillation", kernel, n_rows, width, *arrays, *sizes, *_settings(params, scale))
        return divergences, losses

    def take_columns(self, x: Array, columns: Array) -> Array:
        (n_rows, width), n = x.shape, len(columns)
        taken = self.empty((n_rows, n), x.dtype)
        arrays = (self.contiguous(x), columns, taken)
        self.over_rows("distillation", "take_columns", n_rows, n, *arrays, width, n, element=x.dtype)
        return taken

    def add_to_columns(self, x: Array, columns: Array, values: Array) -> None:
        (n_rows, width), n = x.shape, len(columns)
        check_shape("add_to_columns", "values", values, (n_rows, n))
        arrays = (x, columns, self.contiguous(values))
        self.over_rows("distillation", "add_to_columns", n_rows, n, *arrays, width, n, element=x.dtype)


def _settings(params: DistillationParams, scale: float | None) -> tuple[Any, ...]:
    """The numbers that end the kernels' parameters, from the kind on."""
    temperature = 1.0 if params.kind == "logit_mse" else float(params.temperature)
    write, scale = scale is not None, 0.0 if scale is None else float(scale)
    shares = (params.beta, 1 - params.beta)
    factors = (scale * params.alpha * temperature, scale * (1 - params.alpha))
    return _KINDS.index(params.kind), temperature, 1 / temperature, *shares, *factors, write

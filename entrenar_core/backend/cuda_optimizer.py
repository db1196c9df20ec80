"""Optimizer steps of the CUDA backend: all parameters in one launch, and their norm without waiting for it.

The arrays of a step are listed in a table, chunk by chunk; a block of threads works on one chunk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import FLOAT32, CudaLaunch, check_shape
from entrenar_core.backend.parameters import AdamParams, SGDParams

CHUNK = 1 << 16
"""Elements that one block works on."""


class CudaOptimizer(CudaLaunch):
    """The part of `Backend` that updates parameters and measures gradients."""

    def adam_step(self, parameter: Array, grad: Array, m: Array, v: Array, params: AdamParams) -> None:
        self.adam_steps([(parameter, grad, m, v)], params)

    def adam_steps(self, arrays: Sequence[tuple[Array, Array, Array, Array]], params: AdamParams) -> None:
        """`adam_step` for each (parameter, gradient, m, v), in one launch."""
        decay = params.weight_decay
        table = self._table("adam_step", [(grad, parameter, m, v) for parameter, grad, m, v in arrays])
        self.launch(
            "optimizer",
            "adam",
            (len(table),),
            table,
            None,
            params.grad_scale,
            0.0 if params.decoupled else decay,
            1 - params.lr * decay if params.decoupled else 1.0,
            params.beta1,
            1 - params.beta1,
            params.beta2,
            1 - params.beta2,
            params.lr / (1 - params.beta1**params.step),
            1 / math.sqrt(1 - params.beta2**params.step),
            params.eps,
        )

    def sgd_step(self, parameter: Array, grad: Array, buffer: Array | None, params: SGDParams) -> None:
        rates = (None, params.grad_scale, params.weight_decay, params.lr)
        if buffer is None:
            table = self._table("sgd_step", [(grad, parameter)])
            self.launch("optimizer", "sgd", (len(table),), table, *rates)
            return
        table = self._table("sgd_step", [(grad, parameter, buffer)])
        moving = (params.momentum, params.nesterov, params.first_step)
        self.launch("optimizer", "sgd_momentum", (len(table),), table, *rates, *moving)

    def sum_of_squares(self, array: Array) -> float:
        return float(self._over_chunks("sums_of_squares", array, np.float64).sum())

    def all_finite(self, array: Array) -> bool:
        return bool((self._over_chunks("largest_magnitude_bits", array, np.int32) < 0x7F800000).all())

    def _over_chunks(self, kernel: str, array: Array, dtype: Any) -> Array:
        table = self._table(kernel, [(self.contiguous(array),)])
        results = self.empty((len(table),), dtype)
        self.launch("optimizer", kernel, (len(table),), table, results)
        return results

    def _table(self, operation: str, groups: Sequence[tuple[Array, ...]]) -> Array:
        """int64 [chunks, 2 + arrays of a group], as `optimizer.cu` reads it.

        Raises:
            ValueError: arrays of a group that differ in shape, or are not contiguous float32.
        """
        parts = []
        for group in groups:
            size, n_chunks = group[0].size, -(-group[0].size // CHUNK)
            for array in group:
                check_shape(operation, "array", array, group[0].shape)
                if array.dtype != FLOAT32 or not array.flags.c_contiguous:
                    raise ValueError(f"{operation}: {array.dtype} {array.shape} is not contiguous float32")
            starts = np.arange(n_chunks, dtype=np.int64) * CHUNK
            addresses = np.tile(np.array([self.runtime.address(array) for array in group], np.int64), (n_chunks, 1))
            parts.append(np.column_stack([starts, np.minimum(CHUNK, size - starts), addresses]))
        return self.runtime.to_device(np.concatenate(parts))

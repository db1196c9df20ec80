"""Optimizer steps of the CUDA backend: all parameters in one launch, clipped by a norm that the host need not know.

The arrays of a step are listed in a table, chunk by chunk; a block of threads works on one chunk. A table depends on
addresses and sizes alone, which mostly repeat from step to step, so the last few are kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.backend.base import Array
from entrenar_core.backend.clipping import EPS, Clipping, LossAndNorm
from entrenar_core.backend.cuda_launch import FLOAT32, CudaLaunch, check_shape
from entrenar_core.backend.cuda_runtime import Runtime
from entrenar_core.backend.parameters import AdamParams, SGDParams

CHUNK = 1 << 16
"""Elements that one block works on."""

_MOST_CHUNK_TABLES = 16

_Key = tuple[tuple[int, ...], ...]
"""Of each group of arrays: their size, and their addresses."""


class DeviceClipping:
    """`Clipping` that the device knows: loss, norm and factor, float64 [3]."""

    def __init__(self, runtime: Runtime, values: Array) -> None:
        self.runtime = runtime
        self.values = values
        self._read: LossAndNorm | None = None

    def read(self) -> LossAndNorm:
        if self._read is None:
            loss, norm, _ = self.runtime.to_host(self.values)
            self._read = LossAndNorm(float(loss), float(norm))
        return self._read


class CudaOptimizer(CudaLaunch):
    """The part of `Backend` that updates parameters and measures gradients."""

    def __init__(self, runtime: Runtime, compute_dtype: Any) -> None:
        super().__init__(runtime, compute_dtype)
        self._chunk_tables: dict[_Key, Array] = {}

    def plan_clipping(
        self, grads: Sequence[Array], max_norm: float | None = None, loss: Array | float = 0.0
    ) -> Clipping:
        sums = self._over_chunks("sums_of_squares", grads, np.float64)
        if not isinstance(loss, self.xp.ndarray):
            loss = self.runtime.to_device(np.array(loss, np.float64))
        values = self.empty((3,), np.float64)
        limit = math.inf if max_norm is None else max_norm
        self.launch("optimizer", "clip_factor", (1,), sums, len(sums), loss, limit, EPS, values)
        return DeviceClipping(self.runtime, values)

    def adam_steps(
        self,
        arrays: Sequence[tuple[Array, Array, Array, Array]],
        params: AdamParams,
        clipping: Clipping | None = None,
    ) -> None:
        self._update(
            "adam", [(grad, parameter, m, v) for parameter, grad, m, v in arrays], clipping, *params.coefficients
        )

    def sgd_steps(
        self,
        arrays: Sequence[tuple[Array, Array, Array | None]],
        params: SGDParams,
        clipping: Clipping | None = None,
    ) -> None:
        rates = (params.weight_decay, params.lr)
        plain = [(grad, parameter) for parameter, grad, buffer in arrays if buffer is None]
        self._update("sgd", plain, clipping, *rates)
        moving = [(grad, parameter, buffer) for parameter, grad, buffer in arrays if buffer is not None]
        how = (params.momentum, params.nesterov, params.first_step)
        self._update("sgd_momentum", moving, clipping, *rates, *how)

    def _update(
        self, kernel: str, groups: Sequence[tuple[Array, ...]], clipping: Clipping | None, *settings: Any
    ) -> None:
        if clipping is not None and not isinstance(clipping, DeviceClipping):
            raise TypeError(f"{kernel}: a clipping of the cuda backend is needed, not a {type(clipping).__name__}")
        table = self._table(kernel, groups)
        factor = None if clipping is None else clipping.values
        self.launch("optimizer", kernel, (len(table),), table, factor, *settings)

    def sum_of_squares(self, array: Array) -> float:
        return float(self._over_chunks("sums_of_squares", [array], np.float64).sum())

    def all_finite(self, array: Array) -> bool:
        return bool((self._over_chunks("largest_magnitude_bits", [array], np.int32) < 0x7F800000).all())

    def _over_chunks(self, kernel: str, arrays: Sequence[Array], dtype: Any) -> Array:
        groups = [(self.contiguous(array),) for array in arrays]
        table = self._table(kernel, groups)
        results = self.empty((len(table),), dtype)
        self.launch("optimizer", kernel, (len(table),), table, results)
        return results

    def _table(self, operation: str, groups: Sequence[tuple[Array, ...]]) -> Array:
        """int64 [chunks, 2 + arrays of a group], as `optimizer.cu` reads it.

        Raises:
            ValueError: arrays of a group that differ in shape, or are not contiguous float32.
        """
        for group in groups:
            for array in group:
                check_shape(operation, "array", array, group[0].shape)
                if array.dtype != FLOAT32 or not array.flags.c_contiguous:
                    raise ValueError(f"{operation}: {array.dtype} {array.shape} is not contiguous float32")
        key = tuple((group[0].size, *map(self.runtime.address, group)) for group in groups)
        if key not in self._chunk_tables:
            while len(self._chunk_tables) >= _MOST_CHUNK_TABLES:
                del self._chunk_tables[next(iter(self._chunk_tables))]
            self._chunk_tables[key] = self.runtime.to_device(_chunks(key))
        return self._chunk_tables[key]


def _chunks(key: _Key) -> np.ndarray:
    """The table of groups of arrays on the host."""
    parts = []
    for size, *addresses in key:
        starts = np.arange(0, size, CHUNK, dtype=np.int64)
        part = np.empty((len(starts), 2 + len(addresses)), np.int64)
        part[:, 0], part[:, 1], part[:, 2:] = starts, np.minimum(CHUNK, size - starts), addresses
        parts.append(part)
    return np.concatenate(parts) if parts else np.empty((0, 2), np.int64)

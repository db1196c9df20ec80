"""Matrix products shared out over `Threads`: each thread multiplies its rows or columns with single-threaded BLAS.

BLAS is held to one thread so that its pool and ours do not fight over the cores; cutting the longer side of the
result keeps what every thread packs for itself small. Operands may be transposed or strided views.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from entrenar_core.backend.base import WeightHandle
from entrenar_core.backend.cpu_arguments import FLOAT32
from entrenar_core.backend.cpu_kernels.few_rows import few_rows
from entrenar_core.backend.pool import Pool
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

_FLOPS_PER_PART = 2_000_000
"""About 20 µs of one core: less is not worth waking a thread for."""

FEW_ROWS = 64
"""Rows up to which BLAS takes longer to copy the other operand than it saves by that. One row alone it never copies."""

_TILE = 1024
"""Most rows and columns of a scratch tile of an accumulating product: 4 MiB stay in the last cache until they are
added, and are large enough that packing the operands again for each tile costs nothing that can be measured."""


@dataclass(frozen=True)
class DenseWeight:
    """A frozen float32 weight [out, in], used where it lies."""

    values: NDArray

    @property
    def shape(self) -> tuple[int, int]:
        n_out, n_in = self.values.shape
        return n_out, n_in

    @property
    def n_bytes(self) -> int:
        return self.values.nbytes


def dense_values(weight: WeightHandle) -> NDArray:
    """The array [out, in] of a dense handle.

    Raises:
        TypeError: another backend made the handle.
    """
    if not isinstance(weight, DenseWeight):
        raise TypeError(f"a weight handle of another backend: {type(weight).__name__}")
    return weight.values


def multiply(threads: Threads, a: NDArray, b: NDArray, out: NDArray, alpha: float = 1.0) -> None:
    """out = alpha·a@b for a [M, K], b [K, N]; every operand is blas-ready, out has contiguous rows."""
    n_rows, n_columns = out.shape
    if alpha == 1 and is_for_few_rows(a, b.T, out):
        grain = -(-_FLOPS_PER_PART // max(2 * n_rows * a.shape[1], 1))
        threads.run(few_rows, n_columns, a, b.T, out, 0, grain=grain)
        return
    cut_columns = n_columns > n_rows
    longer, shorter = (n_columns, n_rows) if cut_columns else (n_rows, n_columns)
    part: Callable[..., None] = _multiply_columns if cut_columns else _multiply_rows
    grain = -(-_FLOPS_PER_PART // max(2 * shorter * a.shape[1], 1))
    threads.run(part, longer, a, b, out, np.float32(alpha), grain=grain)


def is_for_few_rows(x: NDArray, weight: NDArray, out: NDArray) -> bool:
    """Whether x @ weight.T is made faster by `few_rows` than by BLAS: x has few rows, and nothing has gaps."""
    without_gaps = x.flags.c_contiguous and weight.flags.c_contiguous and out.flags.c_contiguous
    return 1 < len(x) <= FEW_ROWS and without_gaps


def multiply_add(threads: Threads, pool: Pool, a: NDArray, b: NDArray, out: NDArray, alpha: float, beta: float) -> None:
    """out = alpha·a@b + beta·out, tile by tile through scratch memory of each thread."""
    n_rows, n_columns = out.shape
    if out.size == 0:
        return
    parts = threads.count if 2 * out.size * a.shape[1] >= 2 * _FLOPS_PER_PART else 1
    height = _strip(n_rows, parts if n_rows >= n_columns else 1)
    width = _strip(n_columns, parts if n_columns > n_rows else 1)
    across = -(-n_columns // width)
    n_tiles = -(-n_rows // height) * across
    scratch = pool.empty((min(threads.count, n_tiles), height * width))
    factors = (np.float32(alpha), np.float32(beta))
    threads.run_tasks(_add_tile, n_tiles, a, b, out, factors, scratch, (height, width, across))


def blas_ready(x: NDArray) -> NDArray:
    """x itself where BLAS can read it in place (rows or columns contiguous), else a contiguous copy.

    Raises:
        ValueError: x is not float32.
    """
    if x.dtype != FLOAT32:
        raise ValueError(f"the cpu backend multiplies float32, not {x.dtype}: convert with asarray")
    row_stride, column_stride = x.strides
    size = x.itemsize
    by_rows = column_stride == size and row_stride >= size * x.shape[1] and row_stride % size == 0
    by_columns = row_stride == size and column_stride >= size * x.shape[0] and column_stride % size == 0
    return x if by_rows or by_columns else np.ascontiguousarray(x)


def _strip(length: int, parts: int) -> int:
    """The size of equal strips of at most _TILE, their number a multiple of `parts` where the length allows it."""
    strips = -(-length // (_TILE * parts)) * parts
    return -(-length // strips)


def _multiply_rows(a: NDArray, b: NDArray, out: NDArray, alpha: np.float32, start: int, stop: int) -> None:
    part = np.matmul(a[start:stop], b, out=out[start:stop])
    if alpha != 1:
        part *= alpha


def _multiply_columns(a: NDArray, b: NDArray, out: NDArray, alpha: np.float32, start: int, stop: int) -> None:
    part = np.matmul(a, b[:, start:stop], out=out[:, start:stop])
    if alpha != 1:
        part *= alpha


def _add_tile(
    a: NDArray,
    b: NDArray,
    out: NDArray,
    factors: tuple[np.float32, np.float32],
    scratch: NDArray,
    tiling: tuple[int, int, int],
    task: int,
    thread: int,
) -> None:
    height, width, across = tiling
    alpha, beta = factors
    top, left = task // across * height, task % across * width
    target = out[top : top + height, left : left + width]
    product = scratch[thread, : target.size].reshape(target.shape)
    np.matmul(a[top : top + height], b[:, left : left + width], out=product)
    if alpha != 1:
        product *= alpha
    if beta != 1:
        target *= beta
    target += product

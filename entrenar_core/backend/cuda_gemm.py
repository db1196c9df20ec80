"""How a product of row-major matrices is said to cuBLAS, which thinks in columns.

A row-major matrix lies in memory as its transpose does in column-major order. So cuBLAS is asked for outᵀ = bᵀ·aᵀ: its
first operand is b, its second is a, and an operand whose elements of a *column* are neighbours is one to be transposed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.backend.base import Array

_LARGEST = 2**31 - 1
"""cuBLAS counts rows, columns and leading dimensions in 32 bits; addresses within a matrix may be larger."""


@dataclass(frozen=True)
class Operand:
    """One matrix as cuBLAS takes it; `leading` and `batch_stride` count elements."""

    transposed: bool
    leading: int
    batch_stride: int


@dataclass(frozen=True)
class GemmArguments:
    """The sizes m, n, k and operands of cublasGemmStridedBatchedEx; `first` is b and `second` is a."""

    m: int
    n: int
    k: int
    first: Operand
    second: Operand
    result: Operand
    batch: int


def gemm_arguments(a: Array, b: Array, out: Array) -> GemmArguments:
    """How cuBLAS computes out = a@b; see `Runtime.gemm` for what they may be.

    Raises:
        ValueError: shapes that do not fit, a layout that cuBLAS cannot read or write, or a size above 2³¹ - 1.
    """
    _check_shapes(a.shape, b.shape, out.shape)
    batch = int(out.shape[0]) if len(out.shape) > 2 else 1
    first, second, result = _operand(b), _operand(a), _operand(out)
    if result.transposed or (batch > 1 and result.batch_stride == 0):
        raise ValueError(f"gemm: out {out.shape} with strides {out.strides} is not written row by row")
    m, n, k = int(out.shape[-1]), int(out.shape[-2]), int(a.shape[-1])
    largest = max(m, n, k, batch, first.leading, second.leading, result.leading)
    if largest > _LARGEST:
        raise ValueError(f"gemm: {a.shape} @ {b.shape} has a size of {largest}, and cuBLAS takes {_LARGEST} at most")
    return GemmArguments(m, n, k, first, second, result, batch)


def _check_shapes(a: Sequence[int], b: Sequence[int], out: Sequence[int]) -> None:
    inner_fits = a[-1] == b[-2] and tuple(out[-2:]) == (a[-2], b[-1])
    batch_fits = len(out) <= 3 and tuple(a[:-2]) == tuple(b[:-2]) == tuple(out[:-2])
    if not (inner_fits and batch_fits):
        raise ValueError(f"gemm: {tuple(a)} @ {tuple(b)} -> {tuple(out)} does not fit")


def _operand(matrix: Array) -> Operand:
    """The layout of [rows, columns] or [batch, rows, columns]."""
    n_rows, n_columns = matrix.shape[-2:]
    *batch, between_rows, between_columns = _strides_in_elements(matrix)
    if n_rows == 1:  # there is nothing between rows
        between_rows = n_columns if between_columns == 1 else 1
    if n_columns == 1:
        between_columns = 1
    batch_stride = batch[0] if batch else 0
    if between_columns == 1 and between_rows >= n_columns:
        return Operand(False, between_rows, batch_stride)
    if between_rows == 1 and between_columns >= n_rows:
        return Operand(True, between_columns, batch_stride)
    raise ValueError(f"gemm: a matrix {matrix.shape} with strides {matrix.strides} is neither in rows nor columns")


def _strides_in_elements(matrix: Array) -> list[int]:
    item = matrix.dtype.itemsize
    if any(stride % item for stride in matrix.strides):
        raise ValueError(f"gemm: strides {matrix.strides} are no whole elements of {item} bytes")
    return [int(stride) // item for stride in matrix.strides]

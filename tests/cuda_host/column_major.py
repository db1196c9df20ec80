"""cublasGemmStridedBatchedEx on the host, as its manual has it: matrices are columns in memory."""

from __future__ import annotations

import numpy as np


def gemm_strided_batched(
    transpose_first: bool,
    transpose_second: bool,
    m: int,
    n: int,
    k: int,
    alpha: float,
    first: np.ndarray,
    lda: int,
    stride_first: int,
    second: np.ndarray,
    ldb: int,
    stride_second: int,
    beta: float,
    result: np.ndarray,
    ldc: int,
    stride_result: int,
    batch: int,
) -> None:
    """C[i] = alpha·op(A[i])·op(B[i]) + beta·C[i] for m×k, k×n and m×n matrices; the arrays are the elements from the
    first one on, and the result is written into its array."""
    for which in range(batch):
        a = columns(first[which * stride_first :], *((k, m) if transpose_first else (m, k)), lda)
        b = columns(second[which * stride_second :], *((n, k) if transpose_second else (k, n)), ldb)
        c = columns(result[which * stride_result :], m, n, ldc)
        a, b = (a.T if transpose_first else a), (b.T if transpose_second else b)
        product = np.float32(alpha) * (a.astype(np.float32) @ b.astype(np.float32))
        c[...] = product if beta == 0 else product + np.float32(beta) * c.astype(np.float32)


def columns(elements: np.ndarray, n_rows: int, n_columns: int, leading: int) -> np.ndarray:
    """The view of a matrix that lies in columns, `leading` elements apart."""
    assert leading >= max(1, n_rows), f"a leading dimension of {leading} for {n_rows} rows"
    assert (n_columns - 1) * leading + n_rows <= len(elements), "a matrix reaches behind its memory"
    item = elements.dtype.itemsize
    return np.lib.stride_tricks.as_strided(elements, (n_rows, n_columns), (item, leading * item))

"""A product of row-major matrices, said to a column-major cuBLAS, is the product."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.backend.cuda_gemm import gemm_arguments
from tests.cuda_host.column_major import gemm_strided_batched

LAYOUTS = ("rows", "rows with gaps", "columns", "columns with gaps")
BATCHES = ("none", "stacked", "stacked with gaps", "one for all", "inside a row")

EVERY_LAYOUT = list(product(LAYOUTS, LAYOUTS, LAYOUTS[:2]))


def laid_out(rng: np.random.Generator, layout: str, batches: str, n_batch: int, n_rows: int, n_columns: int):
    """A view [(batch,) rows, columns], and the buffer that it is a view of."""
    in_rows, gap = layout.startswith("rows"), 3 if "gaps" in layout else 0
    outer, inner = (n_rows, n_columns) if in_rows else (n_columns, n_rows)
    n_matrices = 1 if batches in ("none", "one for all") else n_batch
    buffer = rng.standard_normal((n_matrices, outer + (1 if "with" in batches else 0), inner + gap), np.float32)
    if batches == "inside a row":  # as the heads of [T, H, E] are
        buffer = np.ascontiguousarray(buffer.transpose(1, 0, 2))
        view = buffer.transpose(1, 0, 2)[:, :outer, :inner]
    else:
        view = buffer[:, :outer, :inner]
    view = view if in_rows else view.transpose(0, 2, 1)
    if batches == "none":
        return view[0], buffer
    return np.broadcast_to(view, (n_batch, *view.shape[1:])) if batches == "one for all" else view, buffer


def elements_from(view: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    offset = (view.ctypes.data - buffer.ctypes.data) // buffer.dtype.itemsize
    return buffer.reshape(-1)[offset:]


def multiplied(a, b, out, alpha: float, beta: float) -> None:
    """out = alpha·a@b + beta·out by the column-major routine; each argument is a view and its buffer."""
    said = gemm_arguments(a[0], b[0], out[0])
    gemm_strided_batched(
        said.first.transposed,
        said.second.transposed,
        said.m,
        said.n,
        said.k,
        alpha,
        elements_from(*b),
        said.first.leading,
        said.first.batch_stride,
        elements_from(*a),
        said.second.leading,
        said.second.batch_stride,
        beta,
        elements_from(*out),
        said.result.leading,
        said.result.batch_stride,
        said.batch,
    )


def assert_multiplies(rng, sizes, a_layout, b_layout, out_layout, batches) -> None:
    n_batch, m, k, n = sizes
    a = laid_out(rng, a_layout, batches[0], n_batch, m, k)
    b = laid_out(rng, b_layout, batches[1], n_batch, k, n)
    out = laid_out(rng, out_layout, batches[2], n_batch, m, n)
    expected = 2 * (a[0] @ b[0]) - out[0]
    multiplied(a, b, out, 2.0, -1.0)
    np.testing.assert_allclose(out[0], expected, rtol=1e-5, atol=1e-5)


def test_two_matrices_in_every_layout(rng: np.random.Generator) -> None:
    for layouts in EVERY_LAYOUT:
        assert_multiplies(rng, (1, 5, 7, 4), *layouts, ("none", "none", "none"))


@pytest.mark.parametrize("out_batches", ["stacked", "inside a row"])
@pytest.mark.parametrize("b_batches", BATCHES[1:])
@pytest.mark.parametrize("a_batches", BATCHES[1:])
def test_batches_in_every_layout(rng: np.random.Generator, a_batches: str, b_batches: str, out_batches: str) -> None:
    for layouts in EVERY_LAYOUT:
        assert_multiplies(rng, (3, 5, 7, 4), *layouts, (a_batches, b_batches, out_batches))


@pytest.mark.property
@given(
    st.tuples(*[st.integers(1, 4)] * 4),
    st.sampled_from(LAYOUTS),
    st.sampled_from(LAYOUTS),
    st.sampled_from(LAYOUTS[:2]),
    st.tuples(st.sampled_from(BATCHES[1:]), st.sampled_from(BATCHES[1:]), st.just("stacked")),
)
def test_sizes_of_one(sizes, a_layout, b_layout, out_layout, batches) -> None:
    assert_multiplies(np.random.default_rng(7), sizes, a_layout, b_layout, out_layout, batches)


def test_a_result_that_may_not_be_read_is_not_read() -> None:
    a, b, out = (np.ones((2, 2), np.float32) for _ in range(3))
    out[...] = np.nan
    multiplied((a, a), (b, b), (out, out), 1.0, 0.0)
    assert (out == 2).all()


MATRIX = np.zeros((6, 4), np.float32)
STACK = np.zeros((2, 6, 6), np.float32)


@pytest.mark.parametrize(
    ("a", "b", "out"),
    [
        (MATRIX, MATRIX, MATRIX),
        (MATRIX, MATRIX.T, MATRIX),
        (STACK, STACK[0], STACK),
        (STACK[None], STACK[None], STACK[None]),
    ],
    ids=["inner sizes", "result", "one batch axis", "two batch axes"],
)
def test_shapes_that_do_not_fit_are_refused(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        gemm_arguments(a, b, out)


@pytest.mark.parametrize(
    "a",
    [
        np.zeros((12, 12), np.float32)[::2, ::2],
        np.zeros((6, 6), np.float32)[:, ::-1],
        np.zeros((6, 6), np.float32)[::-1],
        np.broadcast_to(np.zeros(6, np.float32), (6, 6)),
        np.lib.stride_tricks.as_strided(np.zeros(64, np.float32), (6, 6), (12, 4)),
    ],
    ids=["gaps in both", "columns backwards", "rows backwards", "a row repeated", "overlapping rows"],
)
def test_layouts_that_cublas_cannot_read_are_refused(a: np.ndarray) -> None:
    with pytest.raises(ValueError, match="neither in rows nor columns"):
        gemm_arguments(a, np.zeros((6, 4), np.float32), MATRIX)


def test_rows_that_are_no_whole_elements_apart_are_refused() -> None:
    record = np.dtype([("row", np.float32, 6), ("other", np.uint8)])
    with pytest.raises(ValueError, match="no whole elements of 4 bytes"):
        gemm_arguments(np.zeros(6, record)["row"], np.zeros((6, 4), np.float32), MATRIX)


@pytest.mark.parametrize(
    "out", [np.zeros((6, 6), np.float32).T, np.broadcast_to(STACK[0], STACK.shape)], ids=["columns", "one for all"]
)
def test_results_that_cublas_cannot_write_are_refused(out: np.ndarray) -> None:
    a = STACK if out.ndim == 3 else STACK[0]
    with pytest.raises(ValueError, match="is not written row by row"):
        gemm_arguments(a, a, out)


def test_a_matrix_of_more_than_two_to_the_31_elements_is_taken_and_a_longer_side_is_refused() -> None:
    def empty(*shape: int) -> np.ndarray:  # of address space that nobody touches
        return np.lib.stride_tricks.as_strided(np.zeros(1, np.float32), shape, (4 * shape[1], 4))

    said = gemm_arguments(empty(70_000, 70_000), empty(70_000, 8), empty(70_000, 8))
    assert (said.m, said.n, said.k, said.second.leading) == (8, 70_000, 70_000, 70_000)
    with pytest.raises(ValueError, match=r"a size of 2147483648, and cuBLAS takes 2147483647 at most"):
        gemm_arguments(empty(2**31, 2), empty(2, 2), empty(2**31, 2))

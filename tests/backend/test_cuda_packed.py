"""Packed weights of the CUDA backend: each type decodes bit for bit as its codec, whole or by rows, in tiles or not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.cuda_packed import DECODERS, DeviceBlocks
from entrenar_core.backend.cuda_products import DeviceWeight
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import DECODABLE, codec_for
from tests.backend.agreement import assert_close
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import waits

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
NDArray = np.ndarray[Any, np.dtype[Any]]
TYPES = sorted(DECODABLE)


def device(compute_dtype: str = "float32") -> CudaBackend:
    return CudaBackend(host_runtime.HostRuntime(), compute_dtype)


def random_matrix(type_name: str, n_rows: int, blocks_per_row: int) -> PackedMatrix:
    """Random bytes: every code, every scale, infinities and NaNs among them."""
    codec = codec_for(type_name)
    width = blocks_per_row * codec.block_bytes
    blocks = np.random.default_rng(len(type_name) + n_rows).integers(0, 256, (n_rows, width), dtype=np.uint8)
    return PackedMatrix(blocks, type_name)


def decoded(backend: CudaBackend, matrix: PackedMatrix, dtype: Any) -> NDArray:
    handle = backend.prepare_packed(matrix)
    if isinstance(handle, DeviceWeight):
        return backend.to_host(backend.cast(handle.values, np.dtype(np.float32)))
    assert isinstance(handle, DeviceBlocks)
    values = backend.empty(matrix.shape, dtype)
    backend._decode(handle, handle.blocks, values, None)
    return backend.to_host(values)


def assert_same_bits(found: NDArray, expected: NDArray) -> None:
    is_nan = np.isnan(expected)
    np.testing.assert_array_equal(np.isnan(found), is_nan)
    np.testing.assert_array_equal(
        np.where(is_nan, 0, found).astype(np.float32).view(np.int32),
        np.where(is_nan, 0, expected).astype(np.float32).view(np.int32),
    )


def expected_of(matrix: PackedMatrix) -> NDArray:
    with np.errstate(all="ignore"):
        return matrix.values()


def test_every_type_that_a_codec_decodes_has_a_kernel() -> None:
    assert DECODERS.keys() == DECODABLE


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 2)], ids=str)
@pytest.mark.parametrize("type_name", TYPES)
def test_values_are_those_of_the_codec(type_name: str, shape: tuple[int, int]) -> None:
    matrix = random_matrix(type_name, *shape)
    assert_same_bits(decoded(device(), matrix, np.dtype(np.float32)), expected_of(matrix))


@pytest.mark.parametrize("type_name", TYPES)
def test_in_bfloat16_the_values_of_the_codec_are_rounded(type_name: str) -> None:
    backend, matrix = device("bfloat16"), random_matrix(type_name, 4, 3)
    with np.errstate(all="ignore"):
        rounded = expected_of(matrix).astype(backend.compute_dtype).astype(np.float32)
    assert_same_bits(decoded(backend, matrix, backend.compute_dtype), rounded)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("type_name", TYPES)
def test_rows_by_id_and_nan_for_an_id_that_does_not_exist(type_name: str, compute_dtype: str) -> None:
    backend, matrix = device(compute_dtype), random_matrix(type_name, 5, 8)
    ids = np.array([4, 0, 0, -1, 2, 5, 3], np.int32)
    found = backend.embedding_packed(backend.prepare_packed(matrix), backend.asarray(ids))
    assert found.dtype == backend.compute_dtype
    with np.errstate(all="ignore"):
        rows = expected_of(matrix)[np.clip(ids, 0, 4)].astype(backend.compute_dtype).astype(np.float32)
    rows[[3, 5]] = np.nan
    assert_same_bits(backend.to_host(found), rows)


def quantized(type_name: str, shape: tuple[int, int]) -> PackedMatrix:
    return PackedMatrix.encode(np.random.default_rng(3).standard_normal(shape).astype(np.float32), type_name)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tile_rows", [1, 7, 40, 1000])
def test_the_cut_into_tiles_does_not_show(tile_rows: int, compute_dtype: str) -> None:
    backend, weight, rng = device(compute_dtype), quantized("Q4_K", (67, 256)), np.random.default_rng(1)
    backend.scratch_bytes = tile_rows * 256 * backend.compute_dtype.itemsize
    x, dy = (
        backend.cast(backend.asarray(rng.standard_normal((5, width))), backend.compute_dtype) for width in (256, 67)
    )
    handle, tolerance = backend.prepare_packed(weight), 2e-6 if compute_dtype == "float32" else 2**-7
    y, dx = backend.linear(x, handle), backend.linear_input_grad(dy, handle)
    assert y.dtype == dx.dtype == backend.compute_dtype
    assert_close(backend.to_host(y), backend.to_host(x) @ weight.values().T.astype(np.float64), tolerance)
    assert_close(backend.to_host(dx), backend.to_host(dy) @ weight.values().astype(np.float64), tolerance)
    assert backend.linear(x, handle, np.dtype(np.float32)).dtype == np.float32


def test_scratch_is_shared_and_grows_to_the_largest_tile() -> None:
    backend = device()
    small, large = (backend.prepare_packed(quantized("Q8_0", (rows, 64))) for rows in (8, 32))
    x = backend.asarray(np.ones((2, 64)))
    for weight in (small, large, small):
        backend.linear(x, weight)
    assert [scratch.size for scratch in backend._scratch.values()] == [32 * 64]


def test_floats_are_dense_where_that_takes_no_more_room() -> None:
    matrix = {name: quantized(name, (4, 7)) for name in ("F32", "F16", "BF16")}
    kinds = {
        (name, compute_dtype): type(device(compute_dtype).prepare_packed(one))
        for name, one in matrix.items()
        for compute_dtype in ("float32", "bfloat16")
    }
    assert {pair for pair, kind in kinds.items() if kind is DeviceBlocks} == {("F16", "float32"), ("BF16", "float32")}


def test_nothing_waits_for_the_device() -> None:
    backend = device("bfloat16")
    weight = backend.prepare_packed(quantized("Q4_0", (67, 96)))
    x = backend.cast(backend.asarray(np.ones((5, 96))), backend.compute_dtype)
    ids, before = backend.asarray(np.zeros(3, np.int32)), waits["count"]
    backend.linear_input_grad(backend.linear(x, weight), weight)
    backend.embedding_packed(weight, ids)
    assert waits["count"] == before


def test_what_does_not_fit_is_refused() -> None:
    backend = device()
    weight = backend.prepare_packed(quantized("Q4_0", (40, 64)))
    with pytest.raises(ValueError, match=r"\(3, 40\) does not fit a packed weight \(40, 64\)"):
        backend.linear(backend.zeros((3, 40)), weight)
    with pytest.raises(ValueError, match=r"\(3, 64\) does not fit a packed weight \(40, 64\)"):
        backend.linear_input_grad(backend.zeros((3, 64)), weight)
    with pytest.raises(TypeError, match="a table in blocks is needed, not a PackedMatrix"):
        backend.embedding_packed(quantized("Q4_0", (4, 32)), backend.zeros((1,), np.int32))
    with pytest.raises(TypeError, match="a weight of the cuda backend is needed, not a PackedMatrix"):
        backend.linear(backend.zeros((3, 32)), quantized("Q4_0", (4, 32)))

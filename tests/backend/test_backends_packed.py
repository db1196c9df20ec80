"""Products with a weight in GGML blocks, on every backend: those of the decoded weight, with never more than a tile."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend import cpu_packed
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cpu_packed import piece_height, tile_length
from entrenar_core.codecs.packed import PackedMatrix
from tests.backend.agreement import assert_close, on
from tests.codecs.blocks import random_rows

SHAPES = [(1, 32), (3, 64), (67, 96), (130, 32), (96, 160)]
"""[out, in]."""


def packed(shape: tuple[int, int], type_name: str) -> PackedMatrix:
    values = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    return PackedMatrix.encode(values, type_name)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0", "F16"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n_rows", [0, 1, 50])
def test_a_packed_weight_multiplies_like_its_values(
    backend: Any, type_name: str, shape: tuple[int, int], n_rows: int, rng: np.random.Generator
) -> None:
    weight = packed(shape, type_name)
    x, dy = rng.normal(size=(n_rows, shape[1])), rng.normal(size=(n_rows, shape[0]))
    handle = backend.prepare_packed(weight)
    assert tuple(handle.shape) == shape
    assert handle.n_bytes == weight.n_bytes
    y, dx = backend.linear(on(backend, x), handle), backend.linear_input_grad(on(backend, dy), handle)
    assert y.dtype == dx.dtype == backend.dtype
    assert_close(backend.to_host(y), x @ weight.values().T.astype(np.float64), 2e-6)
    assert_close(backend.to_host(dx), dy @ weight.values().astype(np.float64), 2e-6)


def test_transposed_and_strided_inputs_are_read(backend: Any, rng: np.random.Generator) -> None:
    weight = packed((40, 64), "Q8_0")
    handle = backend.prepare_packed(weight)
    turned, wide = rng.normal(size=(64, 9)), rng.normal(size=(9, 128))
    of_turned = backend.linear(on(backend, turned).T, handle)
    of_wide = backend.linear(on(backend, wide)[:, ::2], handle)
    assert_close(backend.to_host(of_turned), turned.T @ weight.values().T, 2e-6)
    assert_close(backend.to_host(of_wide), wide[:, ::2] @ weight.values().T, 2e-6)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("tile_values", [1, 32 * 7, 1000, 4096])
def test_the_cut_into_tiles_does_not_show(
    threads: int, tile_values: int, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(cpu_packed, "TILE_VALUES", tile_values)
    backend, weight = CpuBackend(threads, debug_pool=True), packed((67, 96), "Q4_0")
    x, dy = (rng.normal(size=(5, width)).astype(np.float32) for width in (96, 67))
    assert_close(backend.linear(x, weight), x @ weight.values().T, 2e-6)
    assert_close(backend.linear_input_grad(dy, weight), dy @ weight.values(), 2e-6)
    backend.close()


def test_memory_is_that_of_a_tile_for_each_thread_and_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_packed, "TILE_VALUES", 4096)
    backend, weight = CpuBackend(2), packed((128, 512), "Q4_0")
    x, dy = backend.zeros((2, 512)), backend.zeros((2, 128))
    for product, argument in ((backend.linear, x), (backend.linear_input_grad, dy)):
        backend.pool.reset_peak()
        before = backend.pool.statistics().in_use
        product(argument, weight)
        used = backend.pool.statistics().peak - before
        assert 2 * 4 * 4096 <= used <= 2 * 4 * 4096 * 1.125 + 2 * 4 * 512
        assert used < 4 * 512 * 128 / 4, "a quarter of the whole matrix"
    backend.close()


@pytest.mark.parametrize("type_name", ["Q4_0", "Q6_K"])
def test_a_strip_that_is_longer_than_a_tile_is_added_up_in_pieces(
    type_name: str, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    monkeypatch.setattr(cpu_packed, "TILE_VALUES", 2048)
    backend, weight = CpuBackend(2, debug_pool=True), packed((150, 512), type_name)
    assert piece_height(150, 256) == 8
    dy = rng.normal(size=(5, 150)).astype(np.float32)
    first = backend.linear_input_grad(dy, weight)
    assert_close(first, dy @ weight.values().astype(np.float64), 2e-6)
    assert np.array_equal(backend.linear_input_grad(dy, weight), first)
    backend.pool.reset_peak()
    before = backend.pool.statistics().in_use
    backend.linear_input_grad(np.repeat(dy, 20, axis=0), weight)
    assert backend.pool.statistics().peak - before <= 4 * (2 * 2048 + 2 * 100 * 256 + 100 * 512) * 1.125
    backend.close()


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_K", "F16"])
@pytest.mark.parametrize("n_ids", [0, 1, 300])
def test_rows_of_a_table_in_blocks_are_those_of_its_values(
    backend: Any, type_name: str, n_ids: int, rng: np.random.Generator
) -> None:
    table = packed((67, 256), type_name)
    ids = rng.integers(0, 67, n_ids).astype(np.int32)
    found = backend.embedding_packed(backend.prepare_packed(table), on(backend, ids))
    assert found.dtype == backend.dtype
    assert np.array_equal(backend.to_host(found), table.values()[ids])


def test_ids_outside_a_table_in_blocks_are_refused() -> None:
    backend, table = CpuBackend(1), packed((40, 64), "Q4_0")
    for ids in ([-1], [40]):
        with pytest.raises(ValueError, match="leave the range"):
            backend.embedding_packed(table, np.array(ids, np.int32))
    with pytest.raises(TypeError, match="a table in blocks is needed"):
        backend.embedding_packed(backend.prepare_weight(np.ones((4, 4), np.float32)), np.zeros(1, np.int32))
    backend.close()


def test_tiles_are_equal_shares_and_enough_for_all_threads() -> None:
    assert tile_length(1000, 1000, 1) == 1000
    assert tile_length(1000, 1000, 2) == 500
    assert tile_length(4096, 2048, 2) == 512
    assert tile_length(3, 10 * cpu_packed.TILE_VALUES, 2) == 1, "a single unit may be larger than a tile"
    assert tile_length(1, 32, 4) == 1


def test_an_input_that_does_not_fit_is_refused() -> None:
    backend, weight = CpuBackend(1), packed((40, 64), "Q4_0")
    with pytest.raises(ValueError, match=r"\(3, 40\) does not fit a packed weight \(40, 64\)"):
        backend.linear(backend.zeros((3, 40)), weight)
    with pytest.raises(ValueError, match=r"\(3, 64\) does not fit a packed weight \(40, 64\)"):
        backend.linear_input_grad(backend.zeros((3, 64)), weight)
    with pytest.raises(ValueError, match="float64"):
        backend.linear(np.zeros((3, 64)), weight)
    backend.close()


def test_equal_calls_give_equal_bytes(rng: np.random.Generator) -> None:
    backend, weight = CpuBackend(3), PackedMatrix.encode(random_rows(300, 256), "Q4_0")
    x = rng.normal(size=(33, 256)).astype(np.float32)
    first = backend.linear(x, weight).copy()
    assert all(np.array_equal(backend.linear(x, weight), first) for _ in range(3))
    backend.close()

"""Pool: memory comes back when the last view dies, is handed out again, and is counted."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.backend.pool import ALIGNMENT, SMALLEST, Pool, size_class

LARGE = 100_000


def address(array: np.ndarray) -> int:
    return int(array.ctypes.data)


@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 7), (64, 64), (3, 1000, 7)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.uint8, np.uint64])
def test_arrays_have_the_shape_and_dtype_asked_for(shape: tuple[int, ...], dtype: type) -> None:
    array = Pool().empty(shape, dtype)
    array[...] = 7
    assert array.shape == shape
    assert array.dtype == dtype
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert (array == 7).all()


@pytest.mark.parametrize("n_elements", [SMALLEST // 4, 4097, 12_345, LARGE])
def test_pooled_arrays_start_on_a_cache_line(n_elements: int) -> None:
    assert address(Pool().empty((n_elements,))) % ALIGNMENT == 0


def test_the_memory_of_a_dead_array_is_used_again() -> None:
    pool = Pool()
    first = pool.empty((LARGE,))
    place = address(first)
    del first
    assert address(pool.empty((LARGE,))) == place


def test_a_nearly_equal_size_shares_the_memory_of_a_dead_array() -> None:
    pool = Pool()
    first = pool.empty((LARGE,))
    place = address(first)
    del first
    assert address(pool.empty((LARGE - 10,))) == place


def test_living_arrays_never_share_memory() -> None:
    pool = Pool()
    arrays = [pool.empty((LARGE,)) for _ in range(5)]
    for index, array in enumerate(arrays):
        array[:] = index
    assert all((array == index).all() for index, array in enumerate(arrays))


def test_a_view_keeps_its_memory_out_of_the_pool() -> None:
    pool = Pool()
    array = pool.empty((LARGE,))
    array[:] = 1
    view = array.reshape(100, -1).T[3:5]
    del array
    others = [pool.empty((LARGE,)) for _ in range(3)]
    for other in others:
        other[:] = 2
    assert (view == 1).all()


def test_memory_comes_back_with_the_last_view() -> None:
    pool = Pool()
    array = pool.empty((LARGE,))
    place = address(array)
    view = array[10:]
    del array
    assert address(pool.empty((LARGE,))) != place
    del view
    assert place in {address(each) for each in [pool.empty((LARGE,)), pool.empty((LARGE,))]}


def test_debug_fills_returned_memory_with_nan() -> None:
    pool = Pool(debug=True)
    array = pool.empty((LARGE,))
    array[:] = 1
    del array
    assert np.isnan(pool.empty((LARGE,))).all()


def test_statistics_follow_what_is_alive() -> None:
    pool = Pool()
    size = size_class(4 * LARGE)
    first, second = pool.empty((LARGE,)), pool.empty((LARGE,))
    assert pool.statistics().in_use == 2 * size
    del second
    statistics = pool.statistics()
    assert (statistics.in_use, statistics.peak, statistics.held) == (size, 2 * size, 2 * size)
    pool.reset_peak()
    assert pool.statistics().peak == size
    del first
    assert pool.statistics().in_use == 0


def test_trim_gives_free_memory_back_and_leaves_living_arrays_alone() -> None:
    pool = Pool()
    alive, dead = pool.empty((LARGE,)), pool.empty((LARGE,))
    alive[:] = 3
    del dead
    pool.trim()
    statistics = pool.statistics()
    assert statistics.held == statistics.in_use == size_class(4 * LARGE)
    assert (alive == 3).all()


def test_free_memory_of_sizes_that_do_not_come_again_is_bounded() -> None:
    pool = Pool()
    for megabytes in range(20, 60):
        pool.empty((megabytes << 20,), np.uint8)
    statistics = pool.statistics()
    assert statistics.peak < 66 << 20
    assert statistics.held <= statistics.peak * 5 // 4 + (64 << 20)


def test_arrays_may_die_in_another_thread() -> None:
    pool = Pool()
    arrays = [pool.empty((LARGE,)) for _ in range(8)]
    thread = threading.Thread(target=arrays.clear)
    thread.start()
    thread.join()
    assert pool.statistics().in_use == 0


@pytest.mark.parametrize("n_bytes", [1, 64, 4096, 4097, 5000, 65_535, 65_536, 65_537, 10**6, 10**9 + 1])
def test_a_size_class_wastes_at_most_an_eighth(n_bytes: int) -> None:
    size = size_class(n_bytes)
    assert size >= n_bytes
    assert size % ALIGNMENT == 0
    assert size - n_bytes < max(ALIGNMENT, n_bytes / 8 + 1)
    assert size_class(size) == size


def test_memory_of_sizes_that_do_not_come_again_goes_back_to_the_system() -> None:
    np.ones(30 << 20, np.uint8)  # from here on malloc serves such sizes from its heap
    pool, before, pins = Pool(), resident_bytes(), []
    for size in range(2 << 20, 12 << 20, 1 << 19):
        array = pool.empty((size,), np.uint8)
        array[:] = 1
        pins.append((array, np.ones(100_000, np.uint8)))  # keeps the end of the heap in use
    assert resident_bytes() - before > 100 << 20
    pins = [small for _, small in pins]
    del array
    pool.trim()
    assert resident_bytes() - before < 16 << 20
    assert len(pins) == 20


def resident_bytes() -> int:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")

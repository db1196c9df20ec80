"""Reusable memory for NumPy arrays: pages are touched once and handed round, not given back to the system.

An array of the pool stands on a `_Block`, the array's `base`. When the last view dies, CPython frees the block, whose
finaliser puts its buffer on a list of returned ones; the next request sorts them into free lists by size class.
First touch of fresh memory costs a page fault every 4 KiB and runs at a seventh of the speed of reuse.
"""

from __future__ import annotations

import math
import mmap
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

ALIGNMENT = 64
"""Bytes; a cache line and an AVX-512 register."""

SMALLEST = 4096
"""Bytes; below this, malloc is as fast as the pool."""

OWN_PAGES = 1 << 20
"""Bytes from which a buffer is mapped by itself."""

_STEPS_PER_DOUBLING = 8
_SLACK = 64 << 20


@dataclass(frozen=True)
class PoolStatistics:
    """Sizes in bytes: in arrays that are alive, the most there ever was, and held in all (alive and free)."""

    in_use: int
    peak: int
    held: int


class Pool:
    """Hands out uninitialised arrays and takes their memory back when they die.

    Args:
        debug: fill memory that comes back with 0xFF bytes (NaN in every float format, -1 in integers), so that a stale
            pointer into it is noticed.
    """

    def __init__(self, debug: bool = False) -> None:
        self.debug = debug
        self._free: dict[int, list[_Buffer]] = {}
        self._returned: deque[_Buffer] = deque()
        self._in_use = 0
        self._peak = 0
        self._free_bytes = 0

    def empty(self, shape: Sequence[int], dtype: Any = np.float32) -> np.ndarray:
        """An uninitialised C-contiguous array, aligned to 64 bytes if it has 4 KiB or more."""
        dtype = np.dtype(dtype)
        shape = tuple(shape)
        n_bytes = math.prod(shape) * dtype.itemsize
        if n_bytes < SMALLEST:
            return np.empty(shape, dtype)
        buffer = self._take(size_class(n_bytes))
        return np.asarray(_Block(buffer, self, shape, dtype.str))

    def statistics(self) -> PoolStatistics:
        self._sort_returned()
        return PoolStatistics(self._in_use, self._peak, self._in_use + self._free_bytes)

    def reset_peak(self) -> None:
        self._sort_returned()
        self._peak = self._in_use

    def trim(self) -> None:
        """Give all free memory back to the system."""
        self._sort_returned()
        self._free.clear()
        self._free_bytes = 0

    def _take(self, size: int) -> _Buffer:
        self._sort_returned()
        buffers = self._free.get(size)
        if buffers:
            buffer = buffers.pop()
            self._free_bytes -= size
        else:
            self._make_room(size)
            buffer = _Buffer(size)
        self._in_use += size
        self._peak = max(self._peak, self._in_use)
        return buffer

    def _sort_returned(self) -> None:
        while self._returned:
            buffer = self._returned.popleft()
            self._free.setdefault(buffer.size, []).append(buffer)
            self._free_bytes += buffer.size
            self._in_use -= buffer.size

    def _make_room(self, size: int) -> None:
        """Drop free buffers, largest first, while more would be held than the peak ever needed and some slack.

        Batches of changing shapes leave free buffers of sizes that may not come again.
        """
        limit = max(self._peak, self._in_use + size) * 5 // 4 + _SLACK
        for free_size in sorted(self._free, reverse=True):
            buffers = self._free[free_size]
            while buffers and self._in_use + self._free_bytes + size > limit:
                buffers.pop()
                self._free_bytes -= free_size


def size_class(n_bytes: int) -> int:
    """n_bytes rounded up to one of eight steps per power of two: at most 12.5 % is wasted."""
    step = max(ALIGNMENT, (1 << (n_bytes - 1).bit_length()) // (2 * _STEPS_PER_DOUBLING))
    return -(-n_bytes // step) * step


class _Buffer:
    """`size` bytes at an aligned address."""

    __slots__ = ("address", "memory", "size")

    def __init__(self, size: int) -> None:
        self.size = size
        self.memory = _pages(size + ALIGNMENT)
        start = self.memory.ctypes.data
        self.address = start + -start % ALIGNMENT

    def spoil(self) -> None:
        offset = self.address - self.memory.ctypes.data
        self.memory[offset : offset + self.size] = 0xFF


def _pages(n_bytes: int) -> np.ndarray:
    """Untouched bytes that go back to the system as soon as nobody holds them.

    malloc keeps freed pieces of up to 32 MiB and finds no use for them when sizes change: with rows of many widths the
    process would grow step by step.
    """
    if n_bytes < OWN_PAGES:
        return np.empty(n_bytes, np.uint8)
    pages = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            pages.madvise(mmap.MADV_HUGEPAGE)  # as NumPy does
    return np.frombuffer(pages, np.uint8)


class _Block:
    """The base of one array: lives exactly as long as the array and its views.

    Its finaliser may run in any thread and inside any allocation, so it only appends to a deque, which is atomic.
    """

    __slots__ = ("__array_interface__", "_buffer", "_pool")

    def __init__(self, buffer: _Buffer, pool: Pool, shape: tuple[int, ...], typestr: str) -> None:
        self._buffer = buffer
        self._pool = pool
        self.__array_interface__ = {"data": (buffer.address, False), "shape": shape, "typestr": typestr, "version": 3}

    def __del__(self) -> None:
        if self._pool.debug:
            self._buffer.spoil()
        self._pool._returned.append(self._buffer)

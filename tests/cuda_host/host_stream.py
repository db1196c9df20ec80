"""Addresses and a stream as CuPy has them, on the host: a copy that is queued is made when something waits for it."""

from __future__ import annotations

import ctypes
from collections import deque
from typing import Any

import numpy as np


class PinnedMemory:
    """Memory of the host that copies are queued from. Whoever lets go of it too early copies 0xEE."""

    def __init__(self, n_bytes: int) -> None:
        self._memory = np.zeros(n_bytes, np.uint8)
        self.ptr = int(self._memory.ctypes.data)
        stream.allocated.append(self._memory)  # it stays readable, as CuPy's pool does

    def __del__(self) -> None:
        self._memory[...] = 0xEE


class Stream:
    """What is queued, and `done`: how much of it ever was carried out."""

    ptr = 0
    """Of CUDA's default stream."""

    def __init__(self) -> None:
        self._copies: deque[tuple[Pointer, int, int]] = deque()
        self.allocated: list[np.ndarray] = []
        self.queued = 0
        self.done = 0

    def queue_copy(self, target: Pointer, source: int, n_bytes: int) -> None:
        self._copies.append((target, source, n_bytes))
        self.queued += 1

    def synchronize(self) -> None:
        while self._copies:
            target, source, n_bytes = self._copies.popleft()
            ctypes.memmove(target.ptr, source, n_bytes)
            self.done += 1

    def record(self) -> Event:
        return Event(self, self.queued)


class Event:
    """A point in a stream."""

    def __init__(self, where: Stream, count: int) -> None:
        self._where, self._count = where, count

    @property
    def done(self) -> bool:
        return self._where.done >= self._count


stream = Stream()
"""The only one: CuPy's current stream."""


class Pointer:
    """`cupy.cuda.MemoryPointer`: the address of an array's first element."""

    def __init__(self, owner: Any, ptr: int) -> None:
        self._owner = owner
        self.ptr = ptr

    def copy_from_host(self, source: int, n_bytes: int) -> None:
        stream.synchronize()
        ctypes.memmove(self.ptr, source, n_bytes)

    def copy_from_host_async(self, source: int, n_bytes: int) -> None:
        stream.queue_copy(self, source, n_bytes)

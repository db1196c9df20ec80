"""Copies from the host: from pinned memory, as batches come, and through the backend, as weights come."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.gpu.child import Message
from benchmarks.gpu.micro_cases import Bench, Figure


def transfers(bench: Bench) -> Iterator[Message]:
    """GB/s of a quarter of the size of other copies."""
    import cupy

    n_bytes = bench.sizes.copied // 4
    how = f"{n_bytes / 2**20:.0f} MiB"
    pinned = np.frombuffer(cupy.cuda.alloc_pinned_memory(n_bytes), np.uint8, n_bytes)
    pinned.fill(1)
    target = bench.backend.empty((n_bytes,), np.uint8)
    seconds = bench.seconds(lambda: target.set(pinned))
    yield Figure("pinned memory to the device", how, n_bytes / seconds / 1e9, "GB/s").message()
    plain = np.ones(n_bytes, np.uint8)
    seconds = bench.seconds(lambda: bench.subject.runtime.to_device(plain))
    yield Figure("any memory to the device", how, n_bytes / seconds / 1e9, "GB/s").message()

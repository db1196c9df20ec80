"""Fake quantization on the CPU: pieces of rows go through the codec of their type on several threads.

Rows are encoded by themselves, so the result does not depend on the number of threads. No packed copy of the matrix
exists: each piece is decoded again at once, while it is in the cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.cpu_arguments import contiguous, like, writable
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.round_trip import round_trip
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

PIECE_VALUES = 1 << 16
"""Values that a thread works on at a time, unless a row has more: 256 KiB, which the second-level cache keeps."""

FLAGGED_VALUES = 1 << 14
"""The same where it is also found which values are in range: NumPy's temporaries stay too small to be mapped anew each
time (five times as fast)."""


def fake_quantize(
    threads: Threads,
    pool: Pool,
    values: NDArray,
    codec: Codec,
    importance: NDArray | None,
    out: NDArray | None,
    inside: NDArray | None,
) -> NDArray:
    """See `Backend.fake_quantize`.

    Raises:
        ValueError: not a matrix, or an array does not fit it.
        FormatError: a value does not fit the type.
    """
    values = contiguous(values)
    if values.ndim != 2:
        raise ValueError(f"fake_quantize: {values.shape} is not [out, in]")
    target = pool.empty(values.shape) if out is None else like("fake_quantize", writable("fake_quantize", out), values)
    if inside is not None:
        _check_flags("fake_quantize", inside, values)
    most = PIECE_VALUES if inside is None else FLAGGED_VALUES
    height = max(1, most // max(values.shape[1], 1))
    n_pieces = -(-len(values) // height)
    threads.run_tasks(_piece, n_pieces, codec, values, importance, target, inside, height)
    return target


def keep_where(threads: Threads, pool: Pool, array: NDArray, kept: NDArray, out: NDArray | None) -> NDArray:
    """See `Backend.keep_where`.

    Raises:
        ValueError: the flags or `out` do not fit.
    """
    array = contiguous(array)
    _check_flags("keep_where", kept, array)
    target = pool.empty(array.shape) if out is None else like("keep_where", writable("keep_where", out), array)
    threads.run(_keep, array.size, array.reshape(-1), kept.reshape(-1), target.reshape(-1), grain=PIECE_VALUES)
    return target


def _check_flags(operation: str, flags: NDArray, array: NDArray) -> None:
    if flags.shape != array.shape or flags.dtype != np.bool_ or not flags.flags.c_contiguous:
        raise ValueError(f"{operation}: flags {flags.dtype} {flags.shape} do not fit {array.shape}")


def _keep(array: NDArray, kept: NDArray, out: NDArray, start: int, stop: int) -> None:
    np.multiply(array[start:stop], kept[start:stop], out=out[start:stop])


def _piece(
    codec: Codec,
    values: NDArray,
    importance: NDArray | None,
    out: NDArray,
    inside: NDArray | None,
    height: int,
    task: int,
    thread: int,
) -> None:
    del thread
    rows = slice(task * height, (task + 1) * height)
    round_trip(codec, values[rows], importance, out[rows], None if inside is None else inside[rows])

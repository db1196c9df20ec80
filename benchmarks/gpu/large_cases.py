"""Arrays of more than 2^31 bytes: one tile of values again and again, so that every tile must come out like the first.

The first is held against the reference; the others are compared with it on the device, bit for bit.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu.compare import TOLERANCE, Finding, relative_error, rounded
from benchmarks.gpu.subject import TRUTH, Subject
from entrenar_core.backend.parameters import AdamParams

NDArray = np.ndarray[Any, np.dtype[Any]]

TILE = (33, 4096)
_TILES_AT_ONCE = 256
_BITS = {2: np.uint16, 4: np.uint32}
_ADAM = AdamParams(1e-2, 0.9, 0.99, 1e-8, 0.1, decoupled=True, step=3)


def large_arrays(subject: Subject) -> Iterator[Finding]:
    """Kernels over elements and rows; `scale` also beyond 2^31 elements."""
    n = subject.sizes.large_tiles
    yield _scale(subject, 4 * n)
    yield _swiglu(subject, 2 * n)
    yield _rms_norm(subject, 2 * n)
    yield _cross_entropy(subject, n)
    yield _rows_at_the_end(subject, n)
    yield _adam(subject, n)


def tile(seed: int, dtype: str) -> NDArray:
    """float64 values that the type holds."""
    return rounded(np.random.default_rng(seed).standard_normal(TILE), dtype)


def repeated(backend: Any, values: NDArray, n: int, dtype: Any) -> Any:
    """The values n times over, in rows below each other, on the device."""
    array = backend.empty((n * values.shape[0], *values.shape[1:]), dtype)
    tiles, one = bits_of(array.reshape(n, -1)), bits_of(backend.cast(backend.asarray(values.reshape(-1)), dtype))
    for start in range(0, n, _TILES_AT_ONCE):
        tiles[start : start + _TILES_AT_ONCE] = one
    return array


def bits_of(array: Any) -> Any:
    """The array as integers of its width, which can be moved and compared whatever its type."""
    return array.view(_BITS[array.dtype.itemsize])


def finding(backend: Any, name: str, dtype: str, n: int, array: Any, truth: NDArray) -> Finding:
    """How far the first of n tiles of the array is from the truth, and whether all others are like it."""
    tiles = array.reshape(n, -1)
    bits = bits_of(tiles)
    parts = range(0, n, _TILES_AT_ONCE)
    same = all(bool((bits[start : start + _TILES_AT_ONCE] == bits[0]).all()) for start in parts)
    error = relative_error(backend.to_host(tiles[0]).reshape(truth.shape), truth)
    title = f"{name} over {_size(array)}"
    return Finding(title, dtype, error, TOLERANCE[dtype], () if same else ("tiles differ",), tried=n)


def _size(array: Any) -> str:
    n_bytes = math.prod(array.shape) * array.dtype.itemsize
    return f"{n_bytes / 2**30:.2f} GiB"


def _scale(subject: Subject, n: int) -> Finding:
    backend, values = subject.backends["bfloat16"], tile(1, "bfloat16")
    array = repeated(backend, values, n, backend.compute_dtype)
    backend.scale(array, -0.37, out=array)
    return finding(backend, "scale", "bfloat16", n, array, -0.37 * values)


def _swiglu(subject: Subject, n: int) -> Finding:
    backend = subject.backends["bfloat16"]
    gate, up = tile(2, "bfloat16"), tile(3, "bfloat16")
    result = backend.swiglu(*(repeated(backend, each, n, backend.compute_dtype) for each in (gate, up)))
    return finding(backend, "swiglu", "bfloat16", n, result, TRUTH.swiglu(gate, up))


def _rms_norm(subject: Subject, n: int) -> Finding:
    backend, values = subject.backends["bfloat16"], tile(4, "bfloat16")
    weight = rounded(np.random.default_rng(5).standard_normal(TILE[1]), "float32")
    result, _ = backend.rms_norm(
        repeated(backend, values, n, backend.compute_dtype), backend.asarray(weight.copy()), 1e-5
    )
    return finding(backend, "rms_norm", "bfloat16", n, result, TRUTH.rms_norm(values, weight, 1e-5)[0])


def _cross_entropy(subject: Subject, n: int) -> Finding:
    backend, values = subject.backends["float32"], tile(6, "float32")
    labels = np.arange(TILE[0], dtype=np.int32) * 7
    logits = repeated(backend, values, n, np.float32)
    backend.cross_entropy(logits, backend.asarray(np.tile(labels, n)), 0.5)
    TRUTH.cross_entropy(values, labels, 0.5)
    return finding(backend, "cross_entropy", "float32", n, logits, values)


def _rows_at_the_end(subject: Subject, n: int) -> Finding:
    """The last rows of a table, read and written."""
    backend, values = subject.backends["float32"], tile(7, "float32")
    table = repeated(backend, values, n, np.float32)
    last = np.arange(table.shape[0] - TILE[0], table.shape[0], dtype=np.int32)
    rows = backend.take_rows(table, backend.asarray(last))
    backend.put_rows(backend.asarray(last), backend.scale(rows, 2.0), table)
    return finding(backend, "take_rows, put_rows", "float32", 1, table[last[0] :], 2 * values)


def _adam(subject: Subject, n: int) -> Finding:
    backend = subject.backends["float32"]
    values = [tile(seed, "float32") for seed in (8, 9, 10)] + [np.abs(tile(11, "float32"))]
    arrays = [repeated(backend, each, n, np.float32) for each in values]
    backend.adam_steps([tuple(arrays)], _ADAM)
    TRUTH.adam_steps([(values[0], values[1], values[2], values[3])], _ADAM)
    return finding(backend, "adam_steps", "float32", n, arrays[0], values[0])

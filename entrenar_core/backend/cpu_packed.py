"""Products with a weight that stays in GGML blocks: a tile of it is decoded, multiplied by, and forgotten.

Each thread decodes tiles of its own into scratch memory and multiplies with single-threaded BLAS. x Wᵀ takes tiles of
rows of W and dy W takes tiles of columns, so every tile makes its own columns of the result and nothing is summed up
between tiles: the result depends on the sizes and the thread count alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.cpu_gemm import blas_ready
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

TILE_VALUES = 1 << 20
"""Most values of a tile, 4 MiB: they stay in the last cache between being decoded and being multiplied by."""


def multiply_transposed(threads: Threads, pool: Pool, x: NDArray, weight: PackedMatrix) -> NDArray:
    """x [M, in] @ Wᵀ -> [M, out].

    Raises:
        ValueError: x does not fit, or is not float32.
    """
    n_out, n_in = weight.shape
    x = _checked(x, n_in, weight)
    y = pool.empty((len(x), n_out))
    height = tile_length(n_out, n_in, threads.count)
    n_tiles = -(-n_out // height)
    scratch = pool.empty((min(threads.count, n_tiles), height * n_in))
    threads.run_tasks(_row_tile, n_tiles, x, weight, y, scratch, height)
    return y


def multiply(threads: Threads, pool: Pool, dy: NDArray, weight: PackedMatrix) -> NDArray:
    """dy [M, out] @ W -> [M, in].

    Raises:
        ValueError: dy does not fit, or is not float32.
    """
    n_out, n_in = weight.shape
    dy = _checked(dy, n_out, weight)
    dx = pool.empty((len(dy), n_in))
    block = weight.codec.block_size
    width = tile_length(n_in // block, n_out * block, threads.count)
    n_tiles = -(-(n_in // block) // width)
    scratch = pool.empty((min(threads.count, n_tiles), n_out * width * block))
    threads.run_tasks(_column_tile, n_tiles, dy, weight, dx, scratch, width)
    return dx


def tile_length(length: int, unit_values: int, parts: int) -> int:
    """How many of `length` units, each of `unit_values` values, make a tile.

    At most `TILE_VALUES` values unless a single unit has more, and tiles enough for `parts` threads, in equal shares
    where the length allows it.
    """
    most = max(1, TILE_VALUES // unit_values)
    tiles = -(-length // (most * parts)) * parts
    return -(-length // tiles)


def _row_tile(
    x: NDArray, weight: PackedMatrix, y: NDArray, scratch: NDArray, height: int, task: int, thread: int
) -> None:
    n_out, n_in = weight.shape
    rows = slice(task * height, min((task + 1) * height, n_out))
    shape = (rows.stop - rows.start, n_in)
    tile = weight.values(rows, out=scratch[thread, : shape[0] * n_in].reshape(shape))
    np.matmul(x, tile.T, out=y[:, rows])


def _column_tile(
    dy: NDArray, weight: PackedMatrix, dx: NDArray, scratch: NDArray, width: int, task: int, thread: int
) -> None:
    n_out, n_in = weight.shape
    block = weight.codec.block_size
    blocks = slice(task * width, min((task + 1) * width, n_in // block))
    shape = (n_out, (blocks.stop - blocks.start) * block)
    tile = weight.values(blocks=blocks, out=scratch[thread, : n_out * shape[1]].reshape(shape))
    np.matmul(dy, tile, out=dx[:, blocks.start * block : blocks.stop * block])


def _checked(x: NDArray, width: int, weight: PackedMatrix) -> NDArray:
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"{x.shape} does not fit a packed weight {weight.shape}")
    return blas_ready(x)

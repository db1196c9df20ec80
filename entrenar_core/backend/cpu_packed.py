"""Products with a weight that stays in GGML blocks: a tile of it is decoded, multiplied by, and forgotten.

Each thread decodes tiles of its own into scratch memory and multiplies with single-threaded BLAS. x Wᵀ takes tiles of
rows of W and dy W takes strips of columns, so every task makes its own columns of the result. A strip that is too long
for a tile (an output matrix has many rows) is cut into pieces whose products are added up in their order: the result
depends on the sizes and the thread count alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.cpu_gemm import blas_ready, is_for_few_rows
from entrenar_core.backend.cpu_kernels.few_rows import few_rows
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

TILE_VALUES = 1 << 20
"""Most values of a tile, 4 MiB: they stay in the last cache between being decoded and being multiplied by."""

_WORTH_A_THREAD = 1 << 17
"""Values that are worth waking a thread for, when one row is multiplied by them."""

_GRAIN = 1 << 15
"""Values of rows that are worth a thread of their own."""


def multiply_transposed(threads: Threads, pool: Pool, x: NDArray, weight: PackedMatrix) -> NDArray:
    """x [M, in] @ Wᵀ -> [M, out].

    Raises:
        ValueError: x does not fit, or is not float32.
    """
    n_out, n_in = weight.shape
    x = _checked(x, n_in, weight)
    y = pool.empty((len(x), n_out))
    parts = min(threads.count, max(1, n_out * n_in * (1 + len(x) // 16) // _WORTH_A_THREAD))
    height = tile_length(n_out, n_in, parts)
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
    height = min(n_out, piece_height(n_out, block))
    width = tile_length(n_in // block, height * block, threads.count)
    n_tiles = -(-(n_in // block) // width)
    n_threads = min(threads.count, n_tiles)
    tiles = pool.empty((n_threads, height * width * block))
    products = pool.empty((n_threads, len(dy) * width * block if height < n_out else 0))
    threads.run_tasks(_column_strip, n_tiles, dy, weight, dx, tiles, products, (height, width))
    return dx


def rows_of(threads: Threads, pool: Pool, weight: PackedMatrix, ids: NDArray) -> NDArray:
    """Rows of W for ids int32 [M], which must be in range -> [M, in]."""
    y = pool.empty((len(ids), weight.shape[1]))
    threads.run(_decode_rows, len(ids), weight, ids, y, grain=max(1, _GRAIN // weight.shape[1]))
    return y


def piece_height(n_out: int, block: int) -> int:
    """The rows of a strip of one block's width that make a tile: all of them, or equal pieces."""
    pieces = -(-n_out * block // TILE_VALUES)
    return -(-n_out // pieces)


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
    if is_for_few_rows(x, tile, y):
        few_rows(x, tile, y, rows.start, 0, len(tile))
    else:
        np.matmul(x, tile.T, out=y[:, rows])


def _column_strip(
    dy: NDArray,
    weight: PackedMatrix,
    dx: NDArray,
    tiles: NDArray,
    products: NDArray,
    size: tuple[int, int],
    task: int,
    thread: int,
) -> None:
    n_out, n_in = weight.shape
    height, width = size
    block = weight.codec.block_size
    blocks = slice(task * width, min((task + 1) * width, n_in // block))
    n_columns = (blocks.stop - blocks.start) * block
    target = dx[:, blocks.start * block : blocks.stop * block]
    for first in range(0, n_out, height):
        rows = slice(first, min(first + height, n_out))
        shape = (rows.stop - rows.start, n_columns)
        tile = weight.values(rows, blocks, out=tiles[thread, : shape[0] * n_columns].reshape(shape))
        if first == 0:
            np.matmul(dy[:, rows], tile, out=target)
        else:
            target += np.matmul(dy[:, rows], tile, out=products[thread, : target.size].reshape(target.shape))


def _decode_rows(weight: PackedMatrix, ids: NDArray, y: NDArray, start: int, stop: int) -> None:
    weight.codec.decode(weight.blocks[ids[start:stop]], y[start:stop])


def _checked(x: NDArray, width: int, weight: PackedMatrix) -> NDArray:
    if x.ndim != 2 or x.shape[1] != width:
        raise ValueError(f"{x.shape} does not fit a packed weight {weight.shape}")
    return blas_ready(x)

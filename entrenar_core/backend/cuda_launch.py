"""How the parts of the CUDA backend start kernels: grid sizes, element types, checks of what a kernel may not get."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_runtime import Runtime
from entrenar_core.backend.cuda_source import dtype_name, kernel

FLOAT32 = np.dtype(np.float32)

THREADS = 256
_MOST_BLOCKS = 4096
"""Blocks of a kernel whose threads loop over elements: several waves on the largest GPU."""

_ELEMENTS_A_THREAD = 4
_WIDEST_ROW_BLOCK = 512
"""Three or four such blocks share a multiprocessor, so one computes while another waits at its barriers."""
_ROWS_A_PART = 64


class CudaLaunch:
    """Base of the backend's parts.

    Args:
        runtime: the device.
        compute_dtype: of activations: float32 or the runtime's bfloat16.
    """

    def __init__(self, runtime: Runtime, compute_dtype: Any) -> None:
        self.runtime = runtime
        self.xp = runtime.xp
        self.dtype = FLOAT32
        self.compute_dtype = np.dtype(compute_dtype)

    def empty(self, shape: Sequence[int], dtype: Any = None) -> Array:
        return self.runtime.empty(tuple(shape), FLOAT32 if dtype is None else dtype)

    def launch(
        self, file: str, name: str, grid: Sequence[int], *arguments: Any, element: Any = FLOAT32, threads: int = THREADS
    ) -> None:
        """Run a kernel on grid (x, y, z) blocks; nothing if one of them is 0."""
        if 0 in grid:
            return
        blocks = (int(grid[0]), *(int(each) for each in grid[1:]), 1, 1)[:3]
        chosen = kernel(file, name, dtype_name(element))
        self.runtime.launch(chosen, blocks, threads, chosen.checked(arguments), 0)  # type: ignore[arg-type]

    def over_elements(self, file: str, name: str, n: int, *arguments: Any, element: Any = FLOAT32) -> None:
        """Run a kernel whose threads loop over n elements, on as many blocks as they keep busy."""
        blocks = min(-(-n // (THREADS * _ELEMENTS_A_THREAD)), _MOST_BLOCKS)
        self.launch(file, name, (blocks,), *arguments, element=element)

    def over_rows(self, file: str, name: str, n_rows: int, width: int, *arguments: Any, element: Any = FLOAT32) -> None:
        """Run a kernel that takes one block a row, with threads as its width is worth."""
        threads = min(_WIDEST_ROW_BLOCK, max(32, -(-width // 128) * 32))
        self.launch(file, name, (n_rows,), *arguments, element=element, threads=threads)

    def column_sums(self, file: str, name: str, n_rows: int, width: int, *inputs: Any, element: Any) -> Array:
        """float32 [width]: what a kernel sums over rows for each column, in parts which are summed in turn.

        The parts depend on the sizes alone, so the same input gives the same bits.
        """
        n_parts = max(1, -(-n_rows // _ROWS_A_PART))
        partials = self.empty((n_parts, width))
        columns = -(-width // THREADS)
        self.launch(file, name, (columns, n_parts), *inputs, partials, n_rows, width, _ROWS_A_PART, element=element)
        if n_parts == 1:
            return partials.reshape(width)
        return self.column_sums("elementwise", "sum_rows", n_parts, width, partials, element=FLOAT32)

    def contiguous(self, array: Array) -> Array:
        """The array in C order, copied only if it is not."""
        return array if array.flags.c_contiguous else self.xp.ascontiguousarray(array)

    def with_whole_tokens(self, x: Array) -> Array:
        """x [B, T, K, E] with gaps between tokens at most, copied only if it has others."""
        item = x.dtype.itemsize
        return x if x.strides[2:] == (x.shape[3] * item, item) else self.xp.ascontiguousarray(x)


def check_shape(operation: str, what: str, array: Array, shape: Sequence[int]) -> None:
    """Refuse an array of another shape.

    Raises:
        ValueError: with both shapes.
    """
    if tuple(array.shape) != tuple(shape):
        raise ValueError(f"{operation}: {what} of shape {tuple(array.shape)}, but {tuple(shape)} is needed")

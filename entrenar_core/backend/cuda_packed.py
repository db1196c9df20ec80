"""Frozen weights in GGML blocks on the CUDA backend: they stay packed, and are decoded for each product.

A matrix is decoded into scratch memory that all share, in the type that products are computed in, and multiplied by.
One that is larger than the scratch may be (an output matrix) goes in tiles of rows, whose products are added up in
their order. Matrices of floating types are made dense in the type of products, if that takes no more room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from entrenar_core.backend.base import Array, WeightHandle
from entrenar_core.backend.cuda_launch import FLOAT32
from entrenar_core.backend.cuda_products import CudaProducts, DeviceWeight
from entrenar_core.codecs.iq_grids import even_sign_masks, grid_words, sign_masks
from entrenar_core.codecs.level_quants import FP4_LEVELS, HALF_POWERS, HALF_UE4M3, IQ4_LEVELS
from entrenar_core.codecs.packed import PackedMatrix

SCRATCH_BYTES = 256 << 20
"""Most bytes of decoded values at a time: the largest matrix of a block of a 70B model in bfloat16, 8192 × 28672, takes
two tiles, those of smaller models one."""

GROUP = 8
"""Values of a type in blocks that a thread decodes together."""

_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
"""Of a value of the types without blocks."""

HostArray = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class _Decoder:
    """Which kernel decodes a type, and the tables it reads."""

    file: str
    tables: Callable[[], tuple[HostArray, ...]] = tuple


def _levels(levels: HostArray, scales: HostArray | None = None) -> Callable[[], tuple[HostArray, ...]]:
    return lambda: (levels, levels if scales is None else scales)


DECODERS: dict[str, _Decoder] = {
    **dict.fromkeys(_BYTES, _Decoder("dequantize_legacy")),
    **dict.fromkeys(("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "TQ2_0", "Q1_0"), _Decoder("dequantize_legacy")),
    **dict.fromkeys(("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"), _Decoder("dequantize_k")),
    **dict.fromkeys(("IQ4_NL", "IQ4_XS"), _Decoder("dequantize_levels", _levels(IQ4_LEVELS))),
    "MXFP4": _Decoder("dequantize_levels", _levels(FP4_LEVELS, HALF_POWERS)),
    "NVFP4": _Decoder("dequantize_levels", _levels(FP4_LEVELS, HALF_UE4M3)),
    "IQ2_XXS": _Decoder("dequantize_iq", lambda: (grid_words("IQ2_XXS"), even_sign_masks())),
    "IQ2_XS": _Decoder("dequantize_iq", lambda: (grid_words("IQ2_XS"), even_sign_masks())),
    "IQ2_S": _Decoder("dequantize_iq", lambda: (grid_words("IQ2_S"), sign_masks())),
    "IQ3_XXS": _Decoder("dequantize_iq", lambda: (grid_words("IQ3_XXS"), even_sign_masks())),
    "IQ3_S": _Decoder("dequantize_iq", lambda: (grid_words("IQ3_S"), sign_masks())),
    "IQ1_S": _Decoder("dequantize_iq", lambda: (grid_words("IQ1_S", 8),)),
    "IQ1_M": _Decoder("dequantize_iq", lambda: (grid_words("IQ1_M", 8),)),
}
"""Every type that a codec decodes."""


@dataclass(frozen=True, eq=False)
class DeviceBlocks:
    """A frozen weight [out, in] in blocks of one type on the device: blocks uint8 [out, row_bytes]."""

    blocks: Array
    type_name: str
    shape: tuple[int, int]
    tables: tuple[Array, ...] = field(default=())

    @property
    def n_bytes(self) -> int:
        return int(self.blocks.nbytes)


class CudaPacked(CudaProducts):
    """The part of `Backend` that multiplies by packed weights."""

    scratch_bytes = SCRATCH_BYTES

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._scratch: dict[str, Array] = {}
        self._decoding_tables: dict[str, tuple[Array, ...]] = {}

    def prepare_packed(self, weight: PackedMatrix) -> WeightHandle:
        name, blocks = weight.type_name, self.runtime.to_device(np.ascontiguousarray(weight.blocks))
        if name not in self._decoding_tables:
            self._decoding_tables[name] = tuple(self.runtime.to_device(table) for table in DECODERS[name].tables())
        packed = DeviceBlocks(blocks, name, weight.shape, self._decoding_tables[name])
        if _BYTES.get(name, 0) < self.compute_dtype.itemsize:
            return packed
        values = self.empty(weight.shape, self.compute_dtype)
        self._decode(packed, blocks, values, None)
        return DeviceWeight(values)

    def linear(self, x: Array, weight: WeightHandle, dtype: Any = None) -> Array:
        if not isinstance(weight, DeviceBlocks):
            return super().linear(x, weight, dtype)
        self._check_columns(x, weight, 1)
        y = self.empty((len(x), weight.shape[0]), x.dtype if dtype is None else dtype)
        for rows, values in self._tiles(weight, self._product_dtype(x)):
            self.gemm(x, values.T, y[:, rows])
        return y

    def linear_input_grad(self, dy: Array, weight: WeightHandle) -> Array:
        if not isinstance(weight, DeviceBlocks):
            return super().linear_input_grad(dy, weight)
        self._check_columns(dy, weight, 0)
        tiles = -(-weight.shape[0] // self._tile_rows(weight, self._product_dtype(dy)))
        sum_dtype = self.compute_dtype if tiles == 1 else FLOAT32
        dx = self.empty((len(dy), weight.shape[1]), sum_dtype)
        for rows, values in self._tiles(weight, self._product_dtype(dy)):
            self.gemm(dy[:, rows], values, dx, beta=0.0 if rows.start == 0 else 1.0)
        return self.cast(dx, self.compute_dtype)

    def embedding_packed(self, table: WeightHandle, ids: Array) -> Array:
        if isinstance(table, DeviceWeight):
            return self.take_rows(table.values, ids)
        if not isinstance(table, DeviceBlocks):
            raise TypeError(f"a table in blocks is needed, not a {type(table).__name__}")
        y = self.empty((len(ids), table.shape[1]), self.compute_dtype)
        self._decode(table, table.blocks, y, ids)
        return y

    def take_rows(self, x: Array, rows: Array) -> Array:
        y = self.empty((len(rows), x.shape[1]), x.dtype)
        arrays = (self.contiguous(x), rows, y)
        self.over_rows("embedding", "take_rows", *y.shape, *arrays, *x.shape, element=x.dtype)
        return y

    def _product_dtype(self, x: Array) -> Any:
        """What a weight is decoded to for a product with x."""
        return FLOAT32 if x.dtype == FLOAT32 == self.compute_dtype else self.runtime.bfloat16

    def _tile_rows(self, weight: DeviceBlocks, dtype: Any) -> int:
        return max(1, min(weight.shape[0], self.scratch_bytes // (weight.shape[1] * dtype.itemsize)))

    def _tiles(self, weight: DeviceBlocks, dtype: Any) -> Iterator[tuple[slice, Array]]:
        """The weight's rows and their values, tile by tile; each tile is overwritten by the next."""
        height = self._tile_rows(weight, dtype)
        scratch = self._scratch_of(height * weight.shape[1], dtype)
        for start in range(0, weight.shape[0], height):
            rows = slice(start, min(start + height, weight.shape[0]))
            count = rows.stop - rows.start
            values = scratch[: count * weight.shape[1]].reshape(count, weight.shape[1])
            self._decode(weight, weight.blocks[rows], values, None)
            yield rows, values

    def _scratch_of(self, n_values: int, dtype: Any) -> Array:
        held = self._scratch.get(dtype.name)
        if held is None or held.size < n_values:
            self._scratch.pop(dtype.name, None)
            held = self._scratch[dtype.name] = self.empty((n_values,), dtype)
        return held

    def _decode(self, weight: DeviceBlocks, blocks: Array, values: Array, ids: Array | None) -> None:
        """Rows of blocks to values; with ids, those of its rows."""
        unit = 1 if weight.type_name in _BYTES else GROUP
        n_groups, per_row = values.size // unit, weight.shape[1] // unit
        file, kernel = DECODERS[weight.type_name].file, f"decode_{weight.type_name.lower()}"
        arrays = (blocks, ids, values, *weight.tables)
        self.over_elements(file, kernel, n_groups, *arrays, n_groups, per_row, len(blocks), element=values.dtype)

    @staticmethod
    def _check_columns(x: Array, weight: DeviceBlocks, axis: int) -> None:
        if x.ndim != 2 or x.shape[1] != weight.shape[axis]:
            raise ValueError(f"{x.shape} does not fit a packed weight {weight.shape}")

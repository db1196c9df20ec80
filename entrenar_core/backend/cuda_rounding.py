"""Fake quantization on the CUDA backend: on the device for the types that have a kernel, else through the host's codec.

Every type that is written has a kernel, which gives the codec's bits, with an importance or without. Blocks that share
scales go to the host, through their codec on all its cores, and back: each matrix takes the time of two copies and the
CPU's encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from entrenar_core.backend import cpu_rounding
from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import THREADS, CudaLaunch, check_shape
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.base import Codec, checked_importance
from entrenar_core.codecs.iq4_encode import TARGETS
from entrenar_core.codecs.k_encode import FACTORS, normalized
from entrenar_core.codecs.legacy import shares
from entrenar_core.codecs.level_quants import IQ4_LEVELS
from entrenar_core.codecs.refusal import UnfitValueError
from entrenar_core.codecs.registry import codec_for
from entrenar_core.codecs.round_trip import round_trip
from entrenar_core.threads import Threads

HostArray = np.ndarray[Any, np.dtype[Any]]

BLOCK_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types of 32 values with one scale, whose kernels round without a search."""

WEIGHTED_TYPES = BLOCK_TYPES[:4]
"""Those whose scale is searched for where values have an importance, which makes no difference to Q8_0."""

FLOAT_TYPES = ("F16", "BF16")


@dataclass(frozen=True)
class _Search:
    """Where a type's kernel is, how many values share a scale, and the arrays that the kernel reads."""

    file: str
    part: int
    tables: tuple[HostArray, ...]


SEARCHED_TYPES: Mapping[str, _Search] = {
    "Q2_K": _Search("round_affine", 16, (np.float32(3) + FACTORS["Q2_K"],)),
    "Q4_K": _Search("round_affine", 32, (np.float32(15) + FACTORS["Q4_K"],)),
    "Q5_K": _Search("round_affine", 32, (np.float32(31) + FACTORS["Q5_K"],)),
    "Q3_K": _Search("round_symmetric", 16, (-(np.float32(4) + FACTORS["Q3_K"]),)),
    "Q6_K": _Search("round_symmetric", 16, (-(np.float32(32) + FACTORS["Q6_K"]),)),
    "IQ4_NL": _Search("round_symmetric", 32, (TARGETS, IQ4_LEVELS)),
    "IQ4_XS": _Search("round_symmetric", 32, (TARGETS, IQ4_LEVELS)),
}
"""Types whose scales are searched for, with an importance or without. The first table is what the largest number of a
part (or its width) becomes with each scale that is tried."""

_BLOCK = 32
_FITS = np.iinfo(np.int32).max
_MOST_BLOCKS = 1 << 16
_SEARCH_THREADS = 128
"""Of a block of a search, whose threads keep a part of a block each in their registers: one more block may fit so."""


def has_kernel(codec: Codec) -> bool:
    """Whether the device rounds as this codec does; else the host's codec is asked."""
    name = codec.type_name
    is_known = name in (*BLOCK_TYPES, *FLOAT_TYPES, "F32", *SEARCHED_TYPES)
    return is_known and type(codec) is type(codec_for(name))


class CudaRounding(CudaLaunch):
    """The part of `Backend` that rounds weights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._host_threads: Threads | None = None
        self._search_tables: dict[str, tuple[Array, ...]] = {}

    def fake_quantize(
        self,
        values: Array,
        codec: Codec,
        importance: HostArray | None = None,
        out: Array | None = None,
        inside: Array | None = None,
    ) -> Array:
        values = self.contiguous(values)
        if values.ndim != 2:
            raise ValueError(f"fake_quantize: {values.shape} is not [out, in]")
        out = self.empty(values.shape) if out is None else out
        check_shape("fake_quantize", "out", out, values.shape)
        if inside is not None:
            check_shape("fake_quantize", "inside", inside, values.shape)
        if not has_kernel(codec) or values.shape[1] % codec.block_size:
            self._on_host(values, codec, importance, out, inside)
        elif values.size:
            self._on_device(values, codec, importance, out, inside)
        return out

    def _on_device(
        self, values: Array, codec: Codec, importance: HostArray | None, out: Array, inside: Array | None
    ) -> None:
        refused, per_row = self.xp.full((1,), _FITS, np.int32), values.shape[1] // codec.block_size
        if codec.type_name in SEARCHED_TYPES:
            self._search(values, codec, importance, out, inside, refused)
        elif codec.type_name in WEIGHTED_TYPES and importance is not None:
            self._round_weighted(values, codec, importance, out, inside, refused)
        elif codec.type_name in BLOCK_TYPES:
            arrays = (values, out, inside, refused, values.size // _BLOCK)
            self._over_threads("round_legacy", codec.type_name, THREADS, values.size, *arrays)
        else:
            per_row = 1  # kernels of floating types count rows
            self._round_floats(values, codec, out, inside, refused)
        found = int(refused[0])
        if found != _FITS:
            self._refuse(values, codec, importance, found // per_row)

    def _round_floats(self, values: Array, codec: Codec, out: Array, inside: Array | None, refused: Array) -> None:
        if inside is not None:
            inside[...] = True
        if codec.type_name == "F32":
            out[...] = values
        else:
            kernel, sizes = f"round_{codec.type_name.lower()}", (values.size, values.shape[1])
            self.over_elements("round_legacy", kernel, values.size, values, out, refused, *sizes)

    def _search(
        self,
        values: Array,
        codec: Codec,
        importance: HostArray | None,
        out: Array,
        inside: Array | None,
        refused: Array,
    ) -> None:
        search = SEARCHED_TYPES[codec.type_name]
        if codec.type_name not in self._search_tables:
            self._search_tables[codec.type_name] = tuple(self.runtime.to_device(table) for table in search.tables)
        checked = checked_importance(codec, importance, values.shape[1])
        weights = None if checked is None else self.runtime.to_device(normalized(checked))
        tables = self._search_tables[codec.type_name]
        sizes = (values.size // codec.block_size, values.shape[1] // codec.block_size, tables[0].size)
        arrays = (values, weights, *tables, out, inside, refused)
        n_parts = values.size // search.part
        self._over_threads(search.file, codec.type_name, _SEARCH_THREADS, n_parts, *arrays, *sizes)

    def _round_weighted(
        self, values: Array, codec: Codec, importance: HostArray, out: Array, inside: Array | None, refused: Array
    ) -> None:
        (n_rows, width), n_blocks = values.shape, values.size // _BLOCK
        means, checked = self.empty((n_rows,)), checked_importance(codec, importance, width)
        assert checked is not None
        self.launch("round_weighted", "row_mean_squares", (-(-n_rows * 32 // THREADS),), values, means, n_rows, width)
        arrays = (values, self.runtime.to_device(shares(checked)), means, out, inside, refused)
        sizes = (n_blocks, width // _BLOCK)
        self._over_threads("round_weighted", f"weighted_{codec.type_name}", _SEARCH_THREADS, n_blocks, *arrays, *sizes)

    def _over_threads(self, file: str, name: str, threads: int, n_threads: int, *arguments: Any) -> None:
        blocks = min(-(-n_threads // threads), _MOST_BLOCKS)
        self.launch(file, f"round_{name.lower()}", (blocks,), *arguments, threads=threads)

    def _refuse(self, values: Array, codec: Codec, importance: HostArray | None, row: int) -> None:
        """Raise what the codec says about a row that does not fit."""
        try:
            round_trip(codec, self.runtime.to_host(values[row : row + 1]), importance)
        except UnfitValueError as error:
            raise error.moved_by(row) from None
        raise AssertionError(f"a kernel refused row {row}, which the codec of {codec.type_name} takes")

    def _on_host(
        self, values: Array, codec: Codec, importance: HostArray | None, out: Array, inside: Array | None
    ) -> None:
        if self._host_threads is None:
            self._host_threads = Threads(None)
        there = self.runtime.to_host(values)
        flags = None if inside is None else np.empty(there.shape, np.bool_)
        rounded = cpu_rounding.fake_quantize(self._host_threads, Pool(), there, codec, importance, None, flags)
        out[...] = self.runtime.to_device(rounded)
        if inside is not None and flags is not None:
            inside[...] = self.runtime.to_device(flags)

    def keep_where(self, array: Array, kept: Array, out: Array | None = None) -> Array:
        array = self.contiguous(array)
        if tuple(kept.shape) != tuple(array.shape) or kept.dtype != np.bool_ or not kept.flags.c_contiguous:
            raise ValueError(f"keep_where: flags {kept.dtype} {kept.shape} do not fit {array.shape}")
        out = self.empty(array.shape, array.dtype) if out is None else out
        check_shape("keep_where", "out", out, array.shape)
        arrays = (array, kept, out, array.size)
        self.over_elements("elementwise", "keep_where", array.size, *arrays, element=array.dtype)
        return out

    def close(self) -> None:
        if self._host_threads is not None:
            self._host_threads.close()
            self._host_threads = None
        self.runtime.close()

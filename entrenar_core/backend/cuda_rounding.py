"""Fake quantization on the CUDA backend: on the device for the types that have a kernel, else through the host's codec.

Kernels exist for the types of 32 values with one scale, and for floats, where nothing is weighed. A type that searches
for its scales (K-types, IQ4, any with an importance) and blocks that share scales go to the host, through the codec on
all its cores, and back: the numbers are the same, and each matrix takes the time of two copies and the CPU's encoder.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend import cpu_rounding
from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import THREADS, CudaLaunch, check_shape
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.registry import codec_for
from entrenar_core.codecs.round_trip import round_trip
from entrenar_core.threads import Threads

BLOCK_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
"""Types of 32 values with one scale, whose kernels round without a search."""

FLOAT_TYPES = ("F16", "BF16")

_BLOCK = 32
_FITS = np.iinfo(np.int32).max
HostArray = np.ndarray[Any, np.dtype[Any]]


def has_kernel(codec: Codec, importance: HostArray | None) -> bool:
    """Whether the device rounds as this codec does; else the host's codec is asked."""
    name = codec.type_name
    if name not in (*BLOCK_TYPES, *FLOAT_TYPES, "F32") or type(codec) is not type(codec_for(name)):
        return False
    return importance is None or name == "Q8_0" or name not in BLOCK_TYPES


class CudaRounding(CudaLaunch):
    """The part of `Backend` that rounds weights."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._host_threads: Threads | None = None

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
        if not has_kernel(codec, importance) or values.shape[1] % codec.block_size:
            self._on_host(values, codec, importance, out, inside)
        elif values.size:
            self._on_device(values, codec, out, inside)
        return out

    def _on_device(self, values: Array, codec: Codec, out: Array, inside: Array | None) -> None:
        refused = self.xp.full((1,), _FITS, np.int32)
        name, width = codec.type_name, values.shape[1]
        if name in BLOCK_TYPES:
            n_blocks = values.size // _BLOCK
            arrays = (values, out, inside, refused, n_blocks)
            self.launch("round_trip", f"round_{name.lower()}", (min(-(-values.size // THREADS), 1 << 16),), *arrays)
            width = values.shape[1] // _BLOCK
        else:
            if inside is not None:
                inside[...] = True
            if name == "F32":
                out[...] = values
                return
            arrays = (values, out, refused, values.size, width)
            self.over_elements("round_trip", f"round_{name.lower()}", values.size, *arrays)
            width = 1
        found = int(refused[0])
        if found != _FITS:
            row = found // width
            round_trip(codec, self.runtime.to_host(values[row : row + 1]))  # which says what does not fit
            raise AssertionError(f"a kernel refused row {row}, which the codec of {name} takes")

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

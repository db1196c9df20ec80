"""What `float_kernels` does, in numpy: used where kernels are not compiled and a loop over values would be slow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import Floats

Halves = npt.NDArray[np.uint16]

_F16_MAGNITUDE = np.uint16(0x7FFF)
_F16_INFINITY = np.uint16(0x7C00)
_F16_QUIET = np.uint16(0x0200)
_BF16_INFINITY = np.uint16(0x7F80)
_BF16_QUIET = np.uint16(0x0040)


def encode_f16(values: Floats, halves: Halves) -> bool:
    """values float32 [n] -> halves uint16 [n]; True when a finite one has become infinite."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        halves[...] = values.astype("<f2").view("<u2")
    halves[np.isnan(values)] |= _F16_QUIET
    return bool(((halves & _F16_MAGNITUDE == _F16_INFINITY) & np.isfinite(values)).any())


def decode_f16(halves: Halves, values: Floats) -> None:
    """halves uint16 [n] -> values float32 [n]."""
    values[...] = halves.view("<f2")


def encode_bf16(values: Floats, halves: Halves) -> bool:
    """values float32 [n] -> halves uint16 [n]; True when a finite one has become infinite."""
    bits = values.view(np.uint32)
    upper = bits >> np.uint32(16)
    halves[...] = (bits + np.uint32(0x7FFF) + (upper & np.uint32(1))) >> np.uint32(16)
    lost = np.isnan(values)
    halves[lost] = upper[lost].astype(np.uint16) | _BF16_QUIET
    return bool(((halves & _F16_MAGNITUDE == _BF16_INFINITY) & np.isfinite(values)).any())


def decode_bf16(halves: Halves, values: Floats) -> None:
    """halves uint16 [n] -> values float32 [n]."""
    np.left_shift(halves, np.uint32(16), out=values.view(np.uint32), dtype=np.uint32)

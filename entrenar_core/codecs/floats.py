"""The codecs of plain floating point: F32, F16 and BF16.

Encoding rounds to nearest, ties to even. A NaN stays a (quiet) NaN; infinities stay. A finite value that would become
infinite is a FormatError, because the weight it stands for would be lost without a word.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import (
    CHUNK_VALUES,
    Bytes,
    Floats,
    decoded_shape,
    encoded_shape,
    output_array,
    output_bytes,
)
from entrenar_core.errors import FormatError

Halves = npt.NDArray[np.uint16]

_F16_EXPONENT = np.uint16(0x7C00)
_F16_QUIET = np.uint16(0x0200)
_BF16_EXPONENT = np.uint16(0x7F80)
_BF16_QUIET = np.uint16(0x0040)


class F32Codec:
    """IEEE single precision. Encoding contiguous values gives a view of them, no copy."""

    type_name = "F32"
    block_size = 1
    block_bytes = 4

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        values = output_array(decoded_shape(self, raw), out)
        values[...] = _last_axis_contiguous(raw).view("<f4")
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        shape = encoded_shape(self, values)
        packed = np.ascontiguousarray(values, dtype="<f4").view(np.uint8)
        if out is None:
            return packed
        output_bytes(shape, out)[...] = packed
        return out


class F16Codec:
    """IEEE half precision."""

    type_name = "F16"
    block_size = 1
    block_bytes = 2

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        values = output_array(decoded_shape(self, raw), out)
        if not raw.flags.c_contiguous or _subnormals_are_flushed():
            values[...] = _last_axis_contiguous(raw).view("<f2")
            return values
        halves, targets = raw.reshape(-1).view("<i2"), values.reshape(-1)
        for start in range(0, targets.size, CHUNK_VALUES):
            _widen_halves(halves[start : start + CHUNK_VALUES], targets[start : start + CHUNK_VALUES])
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        packed = output_bytes(encoded_shape(self, values), out)
        for source, target in _chunks(values, packed):
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                target[...] = source.astype("<f2").view("<u2")
            _settle_specials(self.type_name, source, target, _F16_EXPONENT, _F16_QUIET)
        return packed


class BF16Codec:
    """The upper half of IEEE single precision (ggml's `ggml_compute_fp32_to_bf16`)."""

    type_name = "BF16"
    block_size = 1
    block_bytes = 2

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        values = output_array(decoded_shape(self, raw), out)
        bits = values.view(np.uint32)
        bits[...] = _last_axis_contiguous(raw).view("<u2")
        np.left_shift(bits, np.uint32(16), out=bits)
        return values

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        packed = output_bytes(encoded_shape(self, values), out)
        for source, target in _chunks(values, packed):
            bits = source.view(np.uint32)
            rounded = bits >> np.uint32(16)
            rounded &= np.uint32(1)
            rounded += np.uint32(0x7FFF)
            rounded += bits
            rounded >>= np.uint32(16)
            target[...] = rounded
            specials = np.isnan(source)
            if specials.any():
                target[specials] = bits[specials] >> np.uint32(16)
            _settle_specials(self.type_name, source, target, _BF16_EXPONENT, _BF16_QUIET)
        return packed


def _widen_halves(halves: npt.NDArray[np.int16], values: Floats) -> None:
    """F16 to F32, three times as fast as numpy's cast: shift the bits into place and correct the exponent's bias.

    Sign, exponent and mantissa land in their F32 places with an exponent that is 112 too small; multiplying by 2^112
    is exact, and makes normal numbers of F16's subnormals. Infinities and NaNs (exponent 31) are left to numpy.
    """
    bits = values.view(np.int32)
    bits[...] = halves
    bits <<= 13
    bits &= np.int32(-0x70002000)  # the sign, which the conversion has spread over four bits, and bits 27 to 13
    values *= np.float32(2.0**112)
    if halves.max() >= 0x7C00 or halves.view(np.uint16).max() >= 0xFC00:
        values[...] = halves.view("<f2")


def _subnormals_are_flushed() -> bool:
    """Whether this thread treats subnormals as zero, as some libraries set the processor to do."""
    return bool(np.array([1e-40], np.float32)[0] * np.float32(2.0**112) == 0)


def _settle_specials(type_name: str, source: Floats, target: Halves, exponent: np.uint16, quiet: np.uint16) -> None:
    """Make every NaN in `target` quiet and refuse an infinity that was finite in `source`."""
    special = (target & exponent) == exponent
    if not special.any():
        return
    values = source[special]
    lost = np.isfinite(values)
    if lost.any():
        raise FormatError(
            f"{float(values[lost][0]):g} is too large for {type_name} and would become infinite",
            hint="write this tensor as F32, or look for the step at which its values blew up",
        )
    bits = target[special]
    bits[np.isnan(values)] |= quiet
    target[special] = bits


def _chunks(values: Floats, packed: Bytes) -> Iterator[tuple[Floats, Halves]]:
    """Matching flat pieces of `values` and of `packed` (seen as 16-bit words), CHUNK_VALUES at a time."""
    flat = np.ascontiguousarray(values).reshape(-1)
    words = packed.reshape(-1).view("<u2")
    for start in range(0, flat.size, CHUNK_VALUES):
        yield flat[start : start + CHUNK_VALUES], words[start : start + CHUNK_VALUES]


def _last_axis_contiguous(raw: Bytes) -> Bytes:
    """`raw` itself, or a copy when its rows are strided, so that bytes can be seen as wider words."""
    return raw if raw.strides[-1] == 1 else np.ascontiguousarray(raw)

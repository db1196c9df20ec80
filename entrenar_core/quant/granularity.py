"""One scale for a row or a whole tensor, in GGUF blocks: every block of the row (the tensor) stores the same numbers.

Scale and minimum are rounded to float16 before any code is chosen, so what a block stores is what was meant, and a
value inside the range comes back within half a scale. Symmetric types map 0 to 0; they reach one step further on one
side of zero than on the other, and the sign of the scale lays that side where the larger values are.

    symmetric   4 bits  Q4_0   x = d·code,      code in -8 ... 7
                5 bits  Q5_0   x = d·code,      code in -16 ... 15
                8 bits  Q8_0   x = d·code,      code in -127 ... 127
    asymmetric  4 bits  Q4_1   x = d·code + m,  code in 0 ... 15
                5 bits  Q5_1   x = d·code + m,  code in 0 ... 31

With an importance, the range is narrowed by the one of `CLIP_RATIOS` that has the least weighted squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import (
    Bytes,
    Codec,
    Floats,
    checked_importance,
    encoded_shape,
    output_bytes,
)
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.quant.granularity_ranges import Ranges, piece_range, row_ranges, tensor_range

Result = TypeVar("Result")
Halves = npt.NDArray[np.float16]
EachPiece = Callable[[Callable[[Floats], Result]], Iterable[Result]]
"""Calls a function with every piece of a tensor (float32 [rows, in]) and gives the results in the order of the rows."""

CLIP_RATIOS = tuple(1 - step / 20 for step in range(17))
"""Shares of a range that are tried, from all of it to a fifth."""

_FIVE_BITS = 31


@dataclass(frozen=True)
class SharedType:
    """How a type maps values to codes. least, most: the codes. offset: added to a code where it is stored.

    has_minimum: blocks store a minimum, and codes count from it. has_fifth: codes have five bits.
    """

    least: int
    most: int
    offset: int = 0
    has_minimum: bool = False

    @property
    def has_fifth(self) -> bool:
        return self.most - self.least == _FIVE_BITS


SHARED_TYPES = {
    "Q4_0": SharedType(-8, 7, offset=8),
    "Q5_0": SharedType(-16, 15, offset=16),
    "Q8_0": SharedType(-127, 127),
    "Q4_1": SharedType(0, 15, has_minimum=True),
    "Q5_1": SharedType(0, 31, has_minimum=True),
}
"""The types whose blocks can share a scale, by their GGML names."""


@dataclass(frozen=True, eq=False)
class Scales:
    """scale and minimum of each of N groups, float32 [N] and exact in float16; minima are 0 for symmetric types."""

    scales: Floats
    minima: Floats


class _SharedCodec:
    """What encoders of one type share: the sizes of a block, and decoding, which knows no granularity."""

    def __init__(self, type_name: str) -> None:
        if type_name not in SHARED_TYPES:
            raise FormatError(
                f"blocks of {type_name} cannot share a scale", hint=f"types that can: {', '.join(SHARED_TYPES)}"
            )
        self.type_name = type_name
        self.block_size = TYPE_BY_NAME[type_name].block_size
        self.block_bytes = TYPE_BY_NAME[type_name].block_bytes

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        """As every codec of the type."""
        return codec_for(self.type_name).decode(raw, out)


class RowScaleEncoder(_SharedCodec):
    """Granularity ``per_channel``: the blocks of a row share a scale.

    Args:
        type_name: one of `SHARED_TYPES`.
        percentile: share of the values of a row that its range has, in percent; None: all.
    """

    def __init__(self, type_name: str, percentile: float | None = None) -> None:
        super().__init__(type_name)
        self.percentile = percentile

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        """Rows float32 [..., in] to packed rows; see `Codec.encode`."""
        packed = output_bytes(encoded_shape(self, values), out)
        rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
        if rows.size:
            _store(self, rows, row_scales(rows, self.type_name, importance, self.percentile), packed)
        return packed


class SharedScaleEncoder(_SharedCodec):
    """Granularity ``per_tensor``: all blocks have the same scale and minimum, numbers that float16 holds.

    Raises:
        FormatError: the type's blocks cannot share a scale.
        ValueError: float16 has no such number, or a minimum is given for a symmetric type.
    """

    def __init__(self, type_name: str, scale: float, minimum: float = 0.0) -> None:
        super().__init__(type_name)
        if any(float(np.float16(number)) != number for number in (scale, minimum)):
            raise ValueError(f"scale {scale} and minimum {minimum} must be float16 numbers")
        if minimum and not SHARED_TYPES[type_name].has_minimum:
            raise ValueError(f"{type_name} has no minimum")
        self.scale = scale
        self.minimum = minimum

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        """Rows float32 [..., in] to packed rows; see `Codec.encode`. The importance was used when the scale was chosen.

        Raises:
            FormatError: a value is NaN or infinite.
        """
        packed = output_bytes(encoded_shape(self, values), out)
        checked_importance(self, importance, values.shape[-1])
        rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
        if rows.size:
            piece_range(rows, with_counts=False)  # refuses what is not finite
            shared = (np.full(len(rows), number, np.float32) for number in (self.scale, self.minimum))
            _store(self, rows, Scales(*shared), packed)
        return packed


def row_scales(
    values: Floats, type_name: str, importance: Floats | None = None, percentile: float | None = None
) -> Scales:
    """Scale and minimum of each row of values float32 [N, in].

    Args:
        values: whole blocks of weights.
        type_name: one of `SHARED_TYPES`.
        importance: float32 [in], what the squared errors of the columns are weighed by when the range is chosen.
        percentile: see `RowScaleEncoder`.

    Raises:
        FormatError: a value is NaN, infinite, or beyond what a float16 scale reaches; the importance does not fit.
    """
    kind = SHARED_TYPES[type_name]
    ranges = row_ranges(values, percentile, symmetric=not kind.has_minimum)
    weights = checked_importance(codec_for(type_name), importance, values.shape[1])
    if weights is None:
        return _scales_of(ranges, type_name)
    candidates = _candidates(ranges, type_name)
    best = np.argmin([_errors(values, weights, kind, one) for one in candidates], axis=0)
    rows = np.arange(len(values))
    scales, minima = (np.stack([getattr(one, part) for one in candidates])[best, rows] for part in ("scales", "minima"))
    return Scales(scales, minima)


def tensor_encoder(
    type_name: str,
    each_piece: EachPiece[Any],
    importance: Floats | None = None,
    percentile: float | None = None,
) -> SharedScaleEncoder:
    """The encoder of a tensor whose blocks all share a scale, found in one or (with an importance) two passes over it.

    Args:
        type_name: one of `SHARED_TYPES`.
        each_piece: goes over the tensor; pieces may be worked on side by side.
        importance: float32 [in]; see `row_scales`.
        percentile: share of the values of the tensor that its range has, in percent; None: all.

    Raises:
        FormatError: see `row_scales`.
    """
    kind = SHARED_TYPES[_SharedCodec(type_name).type_name]
    seen = each_piece(lambda values: piece_range(values, with_counts=percentile is not None))
    ranges = tensor_range(seen, percentile, symmetric=not kind.has_minimum)
    chosen = _scales_of(ranges, type_name)
    if importance is not None:
        candidates = _candidates(ranges, type_name)
        sums = sum(each_piece(lambda values: _piece_errors(values, importance, type_name, candidates)))
        chosen = candidates[int(np.argmin(sums))]
    return SharedScaleEncoder(type_name, float(chosen.scales[0]), float(chosen.minima[0]))


def granular_codec(type_name: str, granularity: str, percentile: float | None = None) -> Codec:
    """The encoder of a type at granularity ``block`` (the codec itself) or ``per_channel``; see `tensor_encoder`."""
    return RowScaleEncoder(type_name, percentile) if granularity == "per_channel" else codec_for(type_name)


def _candidates(ranges: Ranges, type_name: str) -> list[Scales]:
    symmetric = not SHARED_TYPES[type_name].has_minimum
    return [_scales_of(ranges.shrunk(ratio, symmetric=symmetric), type_name) for ratio in CLIP_RATIOS]


def _scales_of(ranges: Ranges, type_name: str) -> Scales:
    """Float16 scales whose codes reach over the ranges."""
    kind = SHARED_TYPES[type_name]
    if kind.has_minimum:
        minima = _half_not_above(ranges.low, type_name)
        scales = _half_not_below((ranges.high - minima.astype(np.float64)) / kind.most, type_name)
        return Scales(scales.astype(np.float32), minima.astype(np.float32))
    below, above = np.maximum(-ranges.low, 0.0), np.maximum(ranges.high, 0.0)
    upright = np.maximum(above / kind.most, below / -kind.least)
    turned = np.maximum(below / kind.most, above / -kind.least)
    scales = _half_not_below(np.minimum(upright, turned), type_name).astype(np.float32)
    return Scales(np.where(turned < upright, -scales, scales), np.zeros(len(scales), np.float32))


def _half_not_below(numbers: npt.NDArray[np.float64], type_name: str) -> Halves:
    """The least float16 numbers that are not below these."""
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16)
        halves = np.where(halves.astype(np.float64) < numbers, np.nextafter(halves, np.float16(np.inf)), halves)
    if not np.isfinite(halves).all():
        raise FormatError(
            f"a scale or minimum of {float(np.abs(numbers).max()):g} does not fit a block of {type_name}",
            hint="write this tensor as F32, or look for the step at which its values blew up",
        )
    return halves


def _half_not_above(numbers: npt.NDArray[np.float64], type_name: str) -> Halves:
    return -_half_not_below(-numbers, type_name)


def _errors(values: Floats, importance: Floats, kind: SharedType, scales: Scales) -> npt.NDArray[np.float64]:
    """The weighted squared error of each row, float64 [N]."""
    from entrenar_core.quant.granularity_kernels import row_errors

    errors = np.empty(len(values), np.float64)
    least, most = np.float32(kind.least), np.float32(kind.most)
    row_errors(values, importance, scales.scales, scales.minima, least, most, errors)
    return errors


def _piece_errors(
    values: Floats, importance: Floats, type_name: str, candidates: list[Scales]
) -> npt.NDArray[np.float64]:
    """The weighted squared error of a piece for each candidate, float64 [candidates]."""
    weights = checked_importance(codec_for(type_name), importance, values.shape[1])
    assert weights is not None
    values = np.ascontiguousarray(values)
    count = len(values)
    of_rows = (Scales(np.repeat(one.scales, count), np.repeat(one.minima, count)) for one in candidates)
    return np.array([_errors(values, weights, SHARED_TYPES[type_name], one).sum() for one in of_rows])


def _store(codec: _SharedCodec, rows: Floats, scales: Scales, packed: Bytes) -> None:
    """Rows float32 [N, in] into `packed`, whole blocks of the codec's type."""
    from entrenar_core.quant.granularity_kernels import encode_rows

    kind = SHARED_TYPES[codec.type_name]
    numbers = [scales.scales, scales.minima] if kind.has_minimum else [scales.scales]
    heads = np.stack([one.astype("<f2") for one in numbers], axis=1).view(np.uint8)
    levels = np.array([kind.least, kind.most, kind.offset], np.float32)
    blocks = packed.reshape(len(rows), -1, codec.block_bytes)
    encode_rows(rows, scales.scales, scales.minima, levels, heads, kind.has_fifth, blocks)

"""What a block kernel does to the 32 values of a block at once: as vector instructions, and in plain Python.

LLVM does not see a loop of 32 steps between two arrays as one vector operation: it cannot prove that the arrays do not
overlap, and keeps floating-point reductions in order. So these few steps are written as vector instructions of LLVM
(`lanes_llvm`, for any processor). The functions here say what each does and are what runs with ``ENTRENAR_JIT=0``.

A kernel that runs for each block had better hand its arrays to these functions alone: numba counts references around
other calls, which takes as long as packing the block. Arrays are rows whose last axis is contiguous; `column` counts
their elements. Nothing is checked: the caller has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from entrenar_core.jit import jit_enabled

Function = TypeVar("Function", bound=Callable[..., Any])

_MAGNITUDE = np.int32(0x7FFFFFFF)
_HALF_QUIET = np.int32(0x0200)
_BELOW_HALF = np.float32(0.49999997)
_SIGN_SHIFT = np.int32(31)


def lanes(function: Function) -> Function:
    """The vector instructions of `lanes_llvm` with the name of `function`, or `function` itself without a compiler."""
    if not jit_enabled():
        return function
    from entrenar_core.codecs import lanes_llvm

    compiled: Function = getattr(lanes_llvm, function.__name__)
    return compiled


def native_halves() -> bool:
    """Whether `half_of_float` and `float_of_half` can be used: compiled, they are instructions of the processor."""
    if not jit_enabled():
        return True
    from entrenar_core.codecs.lanes_llvm import NATIVE_HALVES

    return NATIVE_HALVES


@lanes
def bits_of_float(value):
    """The 32 bits of a float32, as an int32."""
    return np.float32(value).view(np.int32)


@lanes
def float_of_bits(bits):
    """The float32 that 32 bits stand for."""
    return np.int32(bits).view(np.float32)


@lanes
def half_of_float(value):
    """The bits (an int32) of the float16 nearest to a float32, ties to even; a NaN becomes quiet."""
    half = np.int32(np.float32(value).astype(np.float16).view(np.uint16))
    return half | _HALF_QUIET if np.isnan(value) else half


@lanes
def float_of_half(half):
    """The float32 that the bits of a float16 (an int32) stand for."""
    return np.float32(np.uint16(half).view(np.float16))


@lanes
def order_extremes(values, row, column):
    """The smallest and the largest `order_key` (int32) of 32 values float32."""
    bits = values[row, column : column + 32].view(np.int32)
    keys = bits ^ ((bits >> _SIGN_SHIFT) & _MAGNITUDE)
    return keys.min(), keys.max()


@lanes
def first_of_magnitude(values, row, column, magnitude):
    """The bits of the first of 32 values whose bits without the sign are `magnitude`; there has to be one."""
    bits = values[row, column : column + 32].view(np.int32)
    return bits[np.argmax((bits & _MAGNITUDE) == magnitude)]


@lanes
def store_codes4(values, row, column, minimum, inverse, rounding, packed, byte):
    """16 bytes of codes int((x - minimum)·inverse + rounding), cut to 0 ... 15; the second 16 in the high nibbles."""
    codes = _codes(values, row, column, minimum, inverse, rounding, 15)
    packed[row, byte : byte + 16] = codes[:16] | codes[16:] << 4


@lanes
def store_codes5(values, row, column, minimum, inverse, rounding, packed, byte):
    """4 bytes of fifth bits (the first value's is the lowest) and 16 bytes of nibbles; codes up to 31."""
    codes = _codes(values, row, column, minimum, inverse, rounding, 31)
    packed[row, byte : byte + 4] = np.packbits(codes >> 4, bitorder="little")
    packed[row, byte + 4 : byte + 20] = (codes[:16] & 15) | (codes[16:] & 15) << 4


@lanes
def store_codes8(values, row, column, inverse, packed, byte):
    """32 bytes of int8 codes x·inverse, rounded to the nearest, halves away from zero."""
    scaled = values[row, column : column + 32] * inverse
    codes = (scaled + np.copysign(_BELOW_HALF, scaled)).astype(np.int32)
    packed[row, byte : byte + 32] = codes.astype(np.int8).view(np.uint8)


@lanes
def load_codes4(packed, row, byte, zero, scale, minimum, values, column):
    """32 values scale·(code - zero) + minimum from 16 bytes of nibbles; zero is an int32."""
    nibbles = packed[row, byte : byte + 16]
    codes = np.concatenate([nibbles & 15, nibbles >> 4])
    values[row, column : column + 32] = (codes.astype(np.int32) - zero).astype(np.float32) * scale + minimum


@lanes
def load_codes5(packed, row, byte, zero, scale, minimum, values, column):
    """32 values scale·(code - zero) + minimum from 4 bytes of fifth bits and 16 bytes of nibbles."""
    nibbles = packed[row, byte + 4 : byte + 20]
    fifth = np.unpackbits(packed[row, byte : byte + 4], bitorder="little")
    codes = np.concatenate([nibbles & 15, nibbles >> 4]) | fifth << 4
    values[row, column : column + 32] = (codes.astype(np.int32) - zero).astype(np.float32) * scale + minimum


@lanes
def load_codes8(packed, row, byte, scale, values, column):
    """32 values scale·code from 32 bytes of int8 codes."""
    values[row, column : column + 32] = packed[row, byte : byte + 32].view(np.int8).astype(np.float32) * scale


@lanes
def store_weights(values, row, column, importance, mean_square, weights):
    """weights[0:32] = importance·sqrt(mean_square + x²) of 32 columns; their sum."""
    square = values[row, column : column + 32] * values[row, column : column + 32]
    weights[:32] = importance[column : column + 32] * np.sqrt(mean_square + square)
    return _sum(weights[:32])


@lanes
def sum_of_squares(values, row, column):
    """Of 32 values, in float32."""
    return _sum(values[row, column : column + 32] * values[row, column : column + 32])


@lanes
def weighted_sum(values, row, column, minimum, weights):
    """Sum of weight·(x - minimum)."""
    return _sum(weights[:32] * (values[row, column : column + 32] - minimum))


@lanes
def fit_sums(values, row, column, minimum, inverse, rounding, zero, largest, weights):
    """With codes as `store_codes4` makes them, up to `largest`, and k = code - zero: the sums of w·k, w·k², w·k·u.

    w are the weights and u = x - minimum.
    """
    moved = values[row, column : column + 32] - minimum
    codes = np.clip((moved * inverse + rounding).astype(np.int32), 0, largest)
    levels = (codes - zero).astype(np.float32)
    weighted = weights[:32] * levels
    return _sum(weighted), _sum(weighted * levels), _sum(weighted * moved)


@lanes
def line_error(values, row, column, minimum, scale, inverse, rounding, zero, largest, weights, unit):
    """The sum of w·(unit·loss)² when the codes of `fit_sums` are stored and decoded as scale·k + minimum."""
    x = values[row, column : column + 32]
    codes = np.clip(((x - minimum) * inverse + rounding).astype(np.int32), 0, largest)
    lost = (((codes - zero).astype(np.float32) * scale + minimum) - x) * unit
    return _sum(weights[:32] * (lost * lost))


def _sum(lanes32):
    """A sum of 32 numbers by halves, as vectors add up."""
    while lanes32.size > 1:
        lanes32 = lanes32[: lanes32.size // 2] + lanes32[lanes32.size // 2 :]
    return lanes32[0]


def _codes(values, row, column, minimum, inverse, rounding, largest):
    scaled = (values[row, column : column + 32] - minimum) * inverse + rounding
    return np.clip(scaled.astype(np.int32), 0, largest).astype(np.uint8)

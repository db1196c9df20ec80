"""Kernels of weights that share a scale by row: their blocks, and the error that these would have.

A value x has the code round((x - minimum) / scale) between `least` and `most`, and comes back as code·scale + minimum;
halves are rounded up. A scale of 0 gives codes of 0.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_ZERO = np.float32(0.0)
_HALF = np.float32(0.5)
_ONE = np.float32(1.0)
_LANES = 32
"""Values of a block, and sums that run side by side."""

_NIBBLES = 16
_NONE, _LOW, _FOUR = np.uint8(0), np.uint8(15), np.uint8(4)
_BYTE = np.int32(255)


@kernel(exact=True)
def _codes_of(row, inverse, minimum, levels, codes):
    """row float32 [32] -> what is stored of each code, uint8 [32]."""
    least, most, offset = levels[0], levels[1], levels[2]
    for j in range(_LANES):
        level = min(max((row[j] - minimum) * inverse, least), most)
        codes[j] = np.uint8(np.int32(np.floor(level + _HALF) + offset) & _BYTE)


@kernel(exact=True)
def _store_fifth_bits(codes, block, start):
    """The fifth bits of 32 codes, four bytes from `start` on."""
    for j in range(4):
        bits = _NONE
        for k in range(8):
            bits |= (codes[8 * j + k] >> _FOUR) << np.uint8(k)
        block[start + j] = bits


@kernel(exact=True)
def _store_nibbles(codes, block, start):
    """The low four bits of 32 codes, 16 bytes from `start` on; the second half is in the high nibbles."""
    for j in range(_NIBBLES):
        block[start + j] = (codes[j] & _LOW) | ((codes[j + _NIBBLES] & _LOW) << _FOUR)


@kernel(exact=True)
def encode_rows(values, scales, minima, levels, heads, has_fifth, blocks):
    """values float32 [N, in], scales and minima float32 [N] -> blocks uint8 [N, in/32, bytes].

    levels float32 [3]: least and most code, and what is added where one is stored. heads uint8 [N, H]: what each block
    begins with. Codes are bytes where blocks have room for 32 of them, else two to a byte at the end of a block, after
    four bytes of fifth bits if `has_fifth`.
    """
    size, start = blocks.shape[2], heads.shape[1]
    codes = np.empty(_LANES, np.uint8)
    for n in range(scales.size):
        inverse = _ZERO if scales[n] == _ZERO else _ONE / scales[n]
        for b in range(blocks.shape[1]):
            block = blocks[n, b]
            block[:start] = heads[n]
            _codes_of(values[n, b * _LANES : (b + 1) * _LANES], inverse, minima[n], levels, codes)
            if has_fifth:
                _store_fifth_bits(codes, block, start)
            if size - start == _LANES:
                block[start:] = codes
            else:
                _store_nibbles(codes, block, size - _NIBBLES)


@kernel(exact=True)
def row_errors(values, importance, scales, minima, least, most, errors):
    """The squared error of each row of `encode_rows`, weighed by importance float32 [in] -> errors float64 [N]."""
    sums = np.empty(_LANES, np.float64)
    for n in range(scales.size):
        scale, minimum = scales[n], minima[n]
        inverse = _ZERO if scale == _ZERO else _ONE / scale
        sums[:] = 0.0
        for start in range(0, values.shape[1], _LANES):
            row, weights = values[n, start : start + _LANES], importance[start : start + _LANES]
            for j in range(_LANES):
                level = min(max((row[j] - minimum) * inverse, least), most)
                error = np.float64(row[j] - (np.floor(level + _HALF) * scale + minimum))
                sums[j] += np.float64(weights[j]) * error * error
        total = 0.0
        for j in range(_LANES):
            total += sums[j]
        errors[n] = total

"""Kernels that find the k-th largest magnitude: counts by its upper bits, and the lower bits at one place.

The magnitude of a float32 has 31 bits, which are in the order of the numbers. A code is these bits plus 0xFFFF; its
upper half is the bin, so that zero alone is in bin 0, and its lower half tells the magnitudes of a bin apart.

Indices are unsigned, because a signed one is first looked at for whether it counts from the end.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.lanes import bits_of_float
from entrenar_core.jit import kernel

_WINDOW = 32
"""Codes of which all are written down, and most overwritten, if one of them is wanted."""

_MAGNITUDE = np.int32(0x7FFFFFFF)
_LOWER = np.int32(0xFFFF)
_SIXTEEN = np.uint32(16)
_ONE, _YES, _NO = np.int32(1), np.uint32(1), np.uint32(0)
_0, _1, _2, _3, _4 = np.uint64(0), np.uint64(1), np.uint64(2), np.uint64(3), np.uint64(4)


@kernel(exact=True, inline=True)
def _write_codes(values, base, codes):
    """values, base float32 [b] -> the codes of values − base, uint32 [b]."""
    for j in range(values.size):
        codes[j] = np.uint32((bits_of_float(values[j] - base[j]) & _MAGNITUDE) + _LOWER)


@kernel(exact=True)
def count_magnitudes(values, base, tables, codes):
    """Count |values − base| in their bins.

    values: float32 [K, n]. base: float32 [n]. tables: int32 [4·K, 32768], added to: four for each row, since adding to
    one entry twice in a row waits for memory, and zeros often follow each other. codes: uint32, scratch of any size.
    """
    for i in range(values.shape[0]):
        first, second, third, fourth = tables[4 * i], tables[4 * i + 1], tables[4 * i + 2], tables[4 * i + 3]
        for start in range(0, base.size, codes.size):
            stop = min(start + codes.size, base.size)
            block = codes[: stop - start]
            _write_codes(values[i, start:stop], base[start:stop], block)
            quarter = block.size // 4
            for j in range(quarter):
                at = np.uint64(j) * _4
                first[np.uint64(block[at] >> _SIXTEEN)] += _ONE
                second[np.uint64(block[at + _1] >> _SIXTEEN)] += _ONE
                third[np.uint64(block[at + _2] >> _SIXTEEN)] += _ONE
                fourth[np.uint64(block[at + _3] >> _SIXTEEN)] += _ONE
            for j in range(4 * quarter, block.size):
                first[np.uint64(block[j] >> _SIXTEEN)] += _ONE


@kernel(exact=True, inline=True)
def _has(codes, bin_):
    hits = _NO
    for j in range(codes.size):
        hits |= _YES if codes[j] >> _SIXTEEN == bin_ else _NO
    return hits


@kernel(exact=True)
def collect_codes(values, base, wanted, found, codes):
    """The lower halves of the codes of |values − base| in one bin, in order; returns how many.

    values, base: float32 [n]. wanted: int32 [1], the bin. found: uint16 [n + 1]. codes: uint32, scratch of any size.
    """
    count, bin_ = _0, np.uint32(wanted[0])
    for start in range(0, base.size, codes.size):
        stop = min(start + codes.size, base.size)
        block = codes[: stop - start]
        _write_codes(values[start:stop], base[start:stop], block)
        for at in range(0, block.size, _WINDOW):
            window = block[at : min(at + _WINDOW, block.size)]
            if not _has(window, bin_):
                continue
            for j in range(window.size):
                code = window[np.uint64(j)]
                found[count] = np.uint16(code & np.uint32(_LOWER))
                count += _1 if code >> _SIXTEEN == bin_ else _0
    return np.int64(count)

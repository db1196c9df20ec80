"""Kernels that find the k-th largest magnitude: counts by its upper bits, and the lower bits at one place.

The magnitude of a float32 has 31 bits, which are in the order of the numbers. A code is these bits plus 0xFFFF; its
upper half is the bin, so that zero alone is in bin 0, and its lower half tells the magnitudes of a bin apart.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.lanes import bits_of_float
from entrenar_core.jit import kernel

_MAGNITUDE = np.int32(0x7FFFFFFF)
_LOWER = np.int32(0xFFFF)
_SIXTEEN = np.int32(16)
_ONE, _NONE = np.int32(1), np.int32(0)


@kernel(exact=True, inline=True)
def _write_codes(values, base, codes):
    """values, base float32 [b] -> the codes of values − base, int32 [b]."""
    for j in range(values.size):
        codes[j] = (bits_of_float(values[j] - base[j]) & _MAGNITUDE) + _LOWER


@kernel(exact=True)
def count_magnitudes(values, base, tables, codes):
    """Count |values − base| in their bins.

    values: float32 [K, n]. base: float32 [n]. tables: int32 [2·K, 32768], added to: two for each row, since adding to
    one entry twice in a row waits for memory. codes: int32, scratch of any even size.
    """
    for i in range(values.shape[0]):
        first, second = tables[2 * i], tables[2 * i + 1]
        for start in range(0, base.size, codes.size):
            stop = min(start + codes.size, base.size)
            block = codes[: stop - start]
            _write_codes(values[i, start:stop], base[start:stop], block)
            half = block.size // 2
            for j in range(half):
                first[block[2 * j] >> _SIXTEEN] += _ONE
                second[block[2 * j + 1] >> _SIXTEEN] += _ONE
            for j in range(2 * half, block.size):
                first[block[j] >> _SIXTEEN] += _ONE


@kernel(exact=True)
def collect_codes(values, base, wanted, found, codes):
    """The lower halves of the codes of |values − base| in one bin, in order; returns how many.

    values, base: float32 [n]. wanted: int32 [1], the bin. found: uint16 [n + 1]. codes: int32, scratch of any size.
    """
    count = 0
    bin_ = wanted[0]
    for start in range(0, base.size, codes.size):
        stop = min(start + codes.size, base.size)
        block = codes[: stop - start]
        _write_codes(values[start:stop], base[start:stop], block)
        hits = _NONE
        for j in range(block.size):
            hits += _ONE if (block[j] >> _SIXTEEN) == bin_ else _NONE
        if hits > 0:
            for j in range(block.size):
                found[count] = np.uint16(block[j] & _LOWER)
                count += 1 if (block[j] >> _SIXTEEN) == bin_ else 0
    return count

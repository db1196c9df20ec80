"""The kernel of DELLA: ranks the magnitudes of each row, and keeps an entry with the probability of its rank."""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.lanes import bits_of_float
from entrenar_core.jit import kernel
from entrenar_core.merge.change_kernels import GOLDEN, draw

DIGIT_BITS = 11
"""Bits of a magnitude that are sorted by at a time: three digits make 31 bits and more."""

_ZERO, _NONE, _ONE = np.float32(0.0), np.int32(0), np.int32(1)
_MAGNITUDE = np.int32(0x7FFFFFFF)
_DIGIT = np.uint32((1 << DIGIT_BITS) - 1)
_1 = np.uint64(1)


@kernel(exact=True, inline=True)
def _sort_by_digit(magnitudes, source, target, shift, counts):
    """Columns in the order of one digit, columns that are equal in it in their order: source -> target, uint32 [C]."""
    counts[:] = _NONE
    for j in range(source.size):
        counts[np.uint64((magnitudes[np.uint64(j)] >> shift) & _DIGIT) + _1] += _ONE
    for j in range(1, counts.size):
        counts[j] += counts[j - 1]
    for j in range(source.size):
        column = source[j]
        digit = np.uint64((magnitudes[np.uint64(column)] >> shift) & _DIGIT)
        target[np.uint64(counts[digit])] = column
        counts[digit] += _ONE


@kernel(exact=True)
def choose_by_rank(change, chosen, state, thresholds, gains, magnitudes, columns, counts):
    """What is kept of rows, times the gain of its rank, and zeros.

    change, chosen: float32 [r, C]. state: uint64 [1], of the first entry, see `change_kernels`. thresholds: uint64 [C],
    below what 32 random bits keep the entry of each rank, and gains: float32 [C]; ranks rise with magnitudes, and of
    equal ones the first in the row has the highest. Scratch: magnitudes uint32 [C], columns uint32 [2, C],
    counts int32 [2^DIGIT_BITS + 1].
    """
    n_columns = change.shape[1]
    there, back = columns[0], columns[1]
    for row in range(change.shape[0]):
        values = change[row]
        for j in range(n_columns):
            magnitudes[j] = np.uint32(bits_of_float(values[j]) & _MAGNITUDE)
            there[j] = np.uint32(n_columns - 1 - j)
        _sort_by_digit(magnitudes, there, back, np.uint32(0), counts)
        _sort_by_digit(magnitudes, back, there, np.uint32(DIGIT_BITS), counts)
        _sort_by_digit(magnitudes, there, back, np.uint32(2 * DIGIT_BITS), counts)
        first = state[0] + np.uint64(row * n_columns) * GOLDEN
        for rank in range(n_columns):
            column = np.uint64(back[rank])
            is_kept = draw(first + column * GOLDEN) < thresholds[rank]
            chosen[row, column] = values[column] * gains[rank] if is_kept else _ZERO

"""Kernels that keep the k largest of each row, and in one number what the others come to.

The row is cut into blocks, and the k-th largest of their maxima is a bound: k blocks have an element that reaches it,
so the k largest elements all do, and they lie in the blocks whose maximum does. Only those few elements are looked at
one by one. Elements are compared as 64-bit keys, the value's bits above the inverted index, so that no two are equal
and of equal values the first one is larger.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import ZERO, exp, maximum, order_bits
from entrenar_core.jit import kernel

_BLOCKS_PER_KEPT = 4
"""Blocks for each of the k: with more, less is looked at twice, and the maxima take longer to rank."""

_SMALLEST_BLOCK = 4
"""Elements of a block; of a shorter row every element is a candidate."""

_NO_BOUND = np.int32(-(1 << 31))
_LOWEST = np.float32(-np.inf)
_SIGN = np.uint64(0x80000000)
_ID_BITS = np.uint64(32)
_ALL_IDS = np.uint64(0xFFFFFFFF)


@kernel(exact=True)
def _partition(values, low, high):
    """Bring the larger part of values[low ... high] to the front, by the median of three; returns (i, j): what lies
    before i is not smaller than what lies from i on, and what lies after j is not larger than what lies up to j."""
    a, b, c = values[low], values[(low + high) >> 1], values[high]
    pivot = max(min(a, b), min(max(a, b), c))
    i, j = low, high
    while i <= j:
        while values[i] > pivot:
            i += 1
        while values[j] < pivot:
            j -= 1
        if i <= j:
            values[i], values[j] = values[j], values[i]
            i += 1
            j -= 1
    return i, j


@kernel(exact=True)
def kth_largest(values, k):
    """The k-th largest (k ≥ 1) of integers [n ≥ k], which are reordered (quickselect)."""
    low, high, wanted = 0, values.size - 1, k - 1
    while low < high:
        i, j = _partition(values, low, high)
        if wanted <= j:
            high = j
        elif wanted >= i:
            low = i
        else:
            break
    return values[wanted]


@kernel(exact=True)
def key_of(value_bits, index):
    """The key of an element: larger for a larger value, and of equal ones for a smaller index."""
    return ((np.uint64(np.int64(value_bits)) ^ _SIGN) & _ALL_IDS) << _ID_BITS | (_ALL_IDS - np.uint64(index))


@kernel(exact=True)
def _keys_from(row, start, bound, keys, count):
    """Add the keys of all elements that reach a bound to the `count` that are there; `start`: index of the first."""
    bits = row.view(np.int32)
    for i in range(bits.size):
        ordered = order_bits(bits[i])
        if ordered >= bound:
            keys[count] = key_of(ordered, start + i)
            count += 1
    return count


@kernel(exact=True)
def candidates_of(row, k, keys, maxima, ranked):
    """Write the keys of all elements that may be among the k largest of row [n], in order; returns how many.

    keys: uint64 [n]. maxima, ranked: int32 scratch [n].
    """
    size = row.size // (_BLOCKS_PER_KEPT * k)
    if size < _SMALLEST_BLOCK:
        return _keys_from(row, 0, _NO_BOUND, keys, 0)
    n_blocks = row.size // size  # what is left over belongs to the last
    for block in range(n_blocks):
        stop = row.size if block == n_blocks - 1 else (block + 1) * size
        maxima[block] = order_bits(np.float32(maximum(row[block * size : stop])).view(np.int32))
        ranked[block] = maxima[block]
    bound = kth_largest(ranked[:n_blocks], k)
    count = 0
    for block in range(n_blocks):
        if maxima[block] >= bound:
            stop = row.size if block == n_blocks - 1 else (block + 1) * size
            count = _keys_from(row[block * size : stop], block * size, bound, keys, count)
    return count


@kernel()
def log_sum_exp(row):
    """log Σ e^row of a float32 row; -inf for one that is empty or holds nothing but -inf."""
    largest = maximum(row)
    if largest == _LOWEST:
        return _LOWEST
    total = ZERO
    for i in range(row.size):
        total += exp(row[i] - largest)
    return np.float32(largest + np.log(total))


@kernel()
def keep_largest(rows, ids, values, log_tail, start, stop):
    """The k largest of each row, in the order of their indices, and log Σ e^x over the others.

    rows: float32 [m, n]; what is kept is overwritten. ids: int32 [m, k]. values: float32 [m, k]. log_tail: float32 [m].
    """
    n, k = rows.shape[1], ids.shape[1]
    keys, ranked_keys = np.empty(n, np.uint64), np.empty(n, np.uint64)
    maxima, ranked = np.empty(n, np.int32), np.empty(n, np.int32)
    for m in range(start, stop):
        row = rows[m]
        count = candidates_of(row, k, keys, maxima, ranked)
        ranked_keys[:count] = keys[:count]
        last = kth_largest(ranked_keys[:count], k)
        kept = 0
        for i in range(count):
            if keys[i] >= last:
                index = np.int64(_ALL_IDS - (keys[i] & _ALL_IDS))
                ids[m, kept] = index
                values[m, kept] = row[index]
                row[index] = _LOWEST
                kept += 1
        log_tail[m] = log_sum_exp(row)

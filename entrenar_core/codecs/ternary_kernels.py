"""Decoders of one and two bits a value: blocks uint8 [N, block_bytes], d float32 [N, 1] -> values float32 [N, size]."""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_ONE = np.float32(1.0)
_TWO_BITS = np.uint8(3)


@kernel(exact=True)
def _store_digits(packed, power, d, row):
    """d·(digit - 1), the digit to the base 3 being the first one of the fraction byte·power/256, whole part dropped."""
    for i in range(packed.size):
        digit = np.uint8(np.int32(np.uint8(np.int32(packed[i]) * power & 255)) * 3 >> 8)
        row[i] = d * (np.float32(digit) - _ONE)


@kernel(exact=True)
def decode_tq1_0(blocks, scales, values):
    """32 bytes with 5 × 32 values, 16 with 5 × 16, 4 with 4 × 4, d."""
    for n in range(blocks.shape[0]):
        d = scales[n, 0]
        power = 1
        for digit in range(5):
            _store_digits(blocks[n, 0:32], power, d, values[n, digit * 32 : digit * 32 + 32])
            _store_digits(blocks[n, 32:48], power, d, values[n, 160 + digit * 16 : 176 + digit * 16])
            if digit < 4:
                _store_digits(blocks[n, 48:52], power, d, values[n, 240 + digit * 4 : 244 + digit * 4])
            power *= 3


@kernel(exact=True)
def decode_tq2_0(blocks, scales, values):
    """64 bytes of codes, x = d·(code - 1), d."""
    for n in range(blocks.shape[0]):
        d = scales[n, 0]
        for half in range(2):
            packed, row = blocks[n, half * 32 : half * 32 + 32], values[n, half * 128 : half * 128 + 128]
            for i in range(packed.size):
                byte = packed[i]
                row[i] = d * (np.float32(np.uint8(byte & _TWO_BITS)) - _ONE)
                row[32 + i] = d * (np.float32(np.uint8(byte >> 2 & _TWO_BITS)) - _ONE)
                row[64 + i] = d * (np.float32(np.uint8(byte >> 4 & _TWO_BITS)) - _ONE)
                row[96 + i] = d * (np.float32(np.uint8(byte >> 6)) - _ONE)


@kernel(exact=True)
def decode_q1_0(blocks, scales, values):
    """d, then 128 bits: a set one is d, another one -d."""
    for n in range(blocks.shape[0]):
        d = scales[n, 0]
        for part in range(16):
            byte, row = np.int32(blocks[n, 2 + part]), values[n, part * 8 : part * 8 + 8]
            for i in range(row.size):
                row[i] = d if byte >> i & 1 else -d

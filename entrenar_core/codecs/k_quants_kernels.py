"""Decoders of the K-types: N blocks of 256 values at a time, with every bit as in gguf-py.

All of them take blocks uint8 [N, block_bytes] and values float32 [N, 256]; `scales` float32 holds the float16 numbers
of each block ([N, 1]: d, or [N, 2]: d and dmin), and `parts` float32 [2, 16] is scratch. Float operations keep the
order of gguf-py. An inner loop runs over the size of a slice and writes straight to its place: that LLVM vectorises,
where it would unroll a constant range. The values that share a byte, and the two scales of 32 values (`left` and not),
are taken in one loop for the same reason.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.jit import kernel

_TWO_BITS = np.uint8(3)
_LOW_NIBBLE = np.uint8(15)
_FOUR_BITS = np.uint8(4)
_SIX_BITS = np.uint8(63)
_BIT_2 = np.uint8(4)
_BIT_4 = np.uint8(16)
_BITS_4_5 = np.uint8(48)
_FOUR = np.float32(4.0)
_THIRTY_TWO = np.float32(32.0)


@kernel(exact=True)
def _scales_and_minima(packed, d, dmin, scales, minima):
    """Eight 6-bit scales and minima in packed uint8 [12] -> d·scale float32 [8] and dmin·minimum float32 [8]."""
    for j in range(4):
        scale, minimum, rest = packed[j], packed[4 + j], packed[8 + j]
        scales[j] = d * np.float32(scale & _SIX_BITS)
        minima[j] = dmin * np.float32(minimum & _SIX_BITS)
        scales[4 + j] = d * np.float32((rest & _LOW_NIBBLE) | (scale >> 2 & _BITS_4_5))
        minima[4 + j] = dmin * np.float32((rest >> 4) | (minimum >> 2 & _BITS_4_5))


@kernel(exact=True)
def _affine(code, left, left_scale, right_scale, left_minimum, right_minimum):
    return (left_scale if left else right_scale) * np.float32(np.uint8(code)) - (
        left_minimum if left else right_minimum
    )


@kernel(exact=True)
def _centred(code, centre, left, left_scale, right_scale):
    return (left_scale if left else right_scale) * (np.float32(np.uint8(code)) - centre)


@kernel(exact=True)
def decode_q2_k(blocks, scales, parts, values):
    """x = (d·scale)·code - dmin·minimum: 16 nibble pairs of scale and minimum, 64 bytes of codes, d, dmin."""
    steps, minima = parts[0], parts[1]
    for n in range(blocks.shape[0]):
        d, dmin = scales[n, 0], scales[n, 1]
        for part in range(16):
            steps[part] = d * np.float32(blocks[n, part] & _LOW_NIBBLE)
            minima[part] = dmin * np.float32(blocks[n, part] >> _FOUR_BITS)
        for half in range(2):  # 32 bytes hold 4 × 32 values, two bits each
            packed = blocks[n, 16 + half * 32 : 48 + half * 32]
            part, row = half * 8, values[n, half * 128 : half * 128 + 128]
            a0, a1, b0, b1 = steps[part], steps[part + 1], steps[part + 2], steps[part + 3]
            c0, c1, d0, d1 = steps[part + 4], steps[part + 5], steps[part + 6], steps[part + 7]
            p0, p1, q0, q1 = minima[part], minima[part + 1], minima[part + 2], minima[part + 3]
            r0, r1, s0, s1 = minima[part + 4], minima[part + 5], minima[part + 6], minima[part + 7]
            for i in range(packed.size):
                left, byte = i < 16, packed[i]
                row[i] = _affine(byte & _TWO_BITS, left, a0, a1, p0, p1)
                row[32 + i] = _affine(byte >> 2 & _TWO_BITS, left, b0, b1, q0, q1)
                row[64 + i] = _affine(byte >> 4 & _TWO_BITS, left, c0, c1, r0, r1)
                row[96 + i] = _affine(byte >> 6, left, d0, d1, s0, s1)


@kernel(exact=True)
def decode_q3_k(blocks, scales, parts, values):
    """x = (d·(scale - 32))·(code - 4): 32 bytes of high bits, 64 of low bits, 12 of scales, d."""
    steps = parts[0]
    for n in range(blocks.shape[0]):
        d = scales[n, 0]
        for part in range(16):
            low = blocks[n, 96 + part % 8] >> np.uint8(part // 8 * 4) & _LOW_NIBBLE
            high = blocks[n, 104 + part % 4] >> np.uint8(part // 4 * 2) & _TWO_BITS
            steps[part] = d * (np.float32(np.uint8(low | high << _FOUR_BITS)) - _THIRTY_TWO)
        for half in range(2):
            packed, masks, shift = blocks[n, 32 + half * 32 : 64 + half * 32], blocks[n, 0:32], np.uint8(half * 4)
            part, row = half * 8, values[n, half * 128 : half * 128 + 128]
            a0, a1, b0, b1 = steps[part], steps[part + 1], steps[part + 2], steps[part + 3]
            c0, c1, d0, d1 = steps[part + 4], steps[part + 5], steps[part + 6], steps[part + 7]
            for i in range(packed.size):
                left, byte, bits = i < 16, packed[i], masks[i] >> shift
                row[i] = _centred((byte & _TWO_BITS) | (bits << 2 & _BIT_2), _FOUR, left, a0, a1)
                row[32 + i] = _centred((byte >> 2 & _TWO_BITS) | (bits << 1 & _BIT_2), _FOUR, left, b0, b1)
                row[64 + i] = _centred((byte >> 4 & _TWO_BITS) | (bits & _BIT_2), _FOUR, left, c0, c1)
                row[96 + i] = _centred((byte >> 6) | (bits >> 1 & _BIT_2), _FOUR, left, d0, d1)


@kernel(exact=True)
def decode_q4_k(blocks, scales, parts, values):
    """x = (d·scale)·code - dmin·minimum: d, dmin, 12 bytes of scales and minima, 128 of codes."""
    steps, minima = parts[0], parts[1]
    for n in range(blocks.shape[0]):
        _scales_and_minima(blocks[n, 4:16], scales[n, 0], scales[n, 1], steps, minima)
        for pair in range(4):
            packed = blocks[n, 16 + pair * 32 : 48 + pair * 32]
            low, high = values[n, pair * 64 : pair * 64 + 32], values[n, pair * 64 + 32 : pair * 64 + 64]
            low_step, high_step = steps[2 * pair], steps[2 * pair + 1]
            low_minimum, high_minimum = minima[2 * pair], minima[2 * pair + 1]
            for i in range(packed.size):
                low[i] = low_step * np.float32(np.uint8(packed[i] & _LOW_NIBBLE)) - low_minimum
                high[i] = high_step * np.float32(np.uint8(packed[i] >> _FOUR_BITS)) - high_minimum


@kernel(exact=True)
def decode_q5_k(blocks, scales, parts, values):
    """x = (d·scale)·code - dmin·minimum: as Q4_K, with 32 bytes of fifth bits before the codes."""
    steps, minima = parts[0], parts[1]
    for n in range(blocks.shape[0]):
        _scales_and_minima(blocks[n, 4:16], scales[n, 0], scales[n, 1], steps, minima)
        fifths = blocks[n, 16:48]
        for pair in range(4):
            packed = blocks[n, 48 + pair * 32 : 80 + pair * 32]
            low, high = values[n, pair * 64 : pair * 64 + 32], values[n, pair * 64 + 32 : pair * 64 + 64]
            low_step, high_step = steps[2 * pair], steps[2 * pair + 1]
            low_minimum, high_minimum = minima[2 * pair], minima[2 * pair + 1]
            shift = np.uint8(2 * pair)
            for i in range(packed.size):
                both = fifths[i] >> shift
                low_code = np.uint8((packed[i] & _LOW_NIBBLE) | (both << 4 & _BIT_4))
                high_code = np.uint8((packed[i] >> _FOUR_BITS) | (both << 3 & _BIT_4))
                low[i] = low_step * np.float32(low_code) - low_minimum
                high[i] = high_step * np.float32(high_code) - high_minimum


@kernel(exact=True)
def decode_q6_k(blocks, scales, parts, values):
    """x = (d·scale)·(code - 32): 128 bytes of low bits, 64 of high bits, 16 int8 scales, d."""
    steps = parts[0]
    for n in range(blocks.shape[0]):
        for part in range(16):
            steps[part] = scales[n, 0] * np.float32(np.int8(blocks[n, 192 + part]))
        for half in range(2):
            first, second = blocks[n, half * 64 : half * 64 + 32], blocks[n, half * 64 + 32 : half * 64 + 64]
            high = blocks[n, 128 + half * 32 : 160 + half * 32]
            part, row = half * 8, values[n, half * 128 : half * 128 + 128]
            a0, a1, b0, b1 = steps[part], steps[part + 1], steps[part + 2], steps[part + 3]
            c0, c1, d0, d1 = steps[part + 4], steps[part + 5], steps[part + 6], steps[part + 7]
            for i in range(first.size):
                left, bits = i < 16, high[i]
                row[i] = _centred((first[i] & _LOW_NIBBLE) | (bits << 4 & _BITS_4_5), _THIRTY_TWO, left, a0, a1)
                row[32 + i] = _centred((second[i] & _LOW_NIBBLE) | (bits << 2 & _BITS_4_5), _THIRTY_TWO, left, b0, b1)
                row[64 + i] = _centred((first[i] >> 4) | (bits & _BITS_4_5), _THIRTY_TWO, left, c0, c1)
                row[96 + i] = _centred((second[i] >> 4) | (bits >> 2 & _BITS_4_5), _THIRTY_TWO, left, d0, d1)

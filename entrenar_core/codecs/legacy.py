"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 values, byte for byte as llama.cpp's reference quantizer.

A block is a float16 scale d, for the types _1 a float16 minimum m, and codes:

- Q4_0, Q5_0: x = d·(code - 8), d·(code - 16); the value of largest magnitude has code 0,
- Q4_1, Q5_1: x = d·code + m,
- Q8_0: x = d·code, code from -127 to 127.

With an importance, the types of 4 and 5 bits search the scale that loses least (`legacy_search_kernels`).
The kernels are compiled when the first block is met: importing numba takes longer than opening a model.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from entrenar_core.codecs.base import (
    Bytes,
    Codec,
    Floats,
    checked_importance,
    decoded_shape,
    encoded_shape,
    output_array,
    output_bytes,
)
from entrenar_core.codecs.refusal import unfit_block

EncodeKernel = Callable[[Floats, Bytes], int]
"""Packs rows [R, C] into bytes [R, B]; the first block that it left out, or -1."""
WeightedKernel = Callable[[Floats, Floats, Bytes], int]
"""The same with the importance [C] of the columns in between."""
DecodeKernel = Callable[[Bytes, Floats], None]

_BLOCK = 32
_SMALLEST = np.finfo(np.float32).smallest_normal


class Q4_0Codec:
    """Four bits a value and a scale."""

    type_name = "Q4_0"
    block_size = _BLOCK
    block_bytes = 18

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q4_0

        return _decode(self, decode_q4_0, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        from entrenar_core.codecs.legacy_kernels import encode_q4_0

        if importance is not None:
            from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q4_0

            return _encode_weighted(self, encode_weighted_q4_0, values, importance, out)
        return _encode(self, encode_q4_0, values, out)


class Q4_1Codec:
    """Four bits a value, a scale and a minimum."""

    type_name = "Q4_1"
    block_size = _BLOCK
    block_bytes = 20

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q4_1

        return _decode(self, decode_q4_1, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        from entrenar_core.codecs.legacy_kernels import encode_q4_1

        if importance is not None:
            from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q4_1

            return _encode_weighted(self, encode_weighted_q4_1, values, importance, out)
        return _encode(self, encode_q4_1, values, out)


class Q5_0Codec:
    """Five bits a value and a scale."""

    type_name = "Q5_0"
    block_size = _BLOCK
    block_bytes = 22

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q5_0

        return _decode(self, decode_q5_0, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        from entrenar_core.codecs.legacy_kernels import encode_q5_0

        if importance is not None:
            from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q5_0

            return _encode_weighted(self, encode_weighted_q5_0, values, importance, out)
        return _encode(self, encode_q5_0, values, out)


class Q5_1Codec:
    """Five bits a value, a scale and a minimum."""

    type_name = "Q5_1"
    block_size = _BLOCK
    block_bytes = 24

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q5_1

        return _decode(self, decode_q5_1, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        from entrenar_core.codecs.legacy_kernels import encode_q5_1

        if importance is not None:
            from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q5_1

            return _encode_weighted(self, encode_weighted_q5_1, values, importance, out)
        return _encode(self, encode_q5_1, values, out)


class Q8_0Codec:
    """Eight bits a value and a scale; an importance changes nothing."""

    type_name = "Q8_0"
    block_size = _BLOCK
    block_bytes = 34

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        from entrenar_core.codecs.legacy_kernels import decode_q8_0

        return _decode(self, decode_q8_0, raw, out)

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        from entrenar_core.codecs.legacy_kernels import encode_q8_0

        del importance
        return _encode(self, encode_q8_0, values, out)


def _decode(codec: Codec, decode_rows: DecodeKernel, raw: Bytes, out: Floats | None) -> Floats:
    values = output_array(decoded_shape(codec, raw), out)
    if values.size:
        decode_rows(_rows(raw), values.reshape(-1, values.shape[-1]))
    return values


def _encode(codec: Codec, encode_rows: EncodeKernel, values: Floats, out: Bytes | None) -> Bytes:
    packed = output_bytes(encoded_shape(codec, values), out)
    if packed.size:
        rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
        refused = encode_rows(rows, packed.reshape(-1, packed.shape[-1]))
        if refused >= 0:
            raise unfit_block(codec, rows, refused)
    return packed


def _encode_weighted(
    codec: Codec, encode_rows: WeightedKernel, values: Floats, importance: Floats, out: Bytes | None
) -> Bytes:
    checked_importance(codec, importance, values.shape[-1])
    shares = importance / max(importance.max(initial=0.0), _SMALLEST)  # products of their sums must stay in float32
    return _encode(codec, lambda rows, packed: encode_rows(rows, shares, packed), values, out)


def _rows(raw: Bytes) -> Bytes:
    """`raw` as [R, row_bytes]: as it is when it is such rows, with gaps between them or not; else a copy."""
    if raw.ndim == 2 and raw.strides[1] == 1:
        return raw
    return np.ascontiguousarray(raw).reshape(-1, raw.shape[-1])

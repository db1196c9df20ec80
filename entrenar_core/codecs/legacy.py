"""Q4_0, Q4_1, Q5_0, Q5_1 and Q8_0: blocks of 32 values, byte for byte as llama.cpp's reference quantizer.

A block is a float16 scale d, for the types _1 a float16 minimum m, and codes:

- Q4_0, Q5_0: x = d·(code - 8), d·(code - 16); the value of largest magnitude has code 0,
- Q4_1, Q5_1: x = d·code + m,
- Q8_0: x = d·code, code from -127 to 127.

With an importance, the types of 4 and 5 bits search the scale that loses least (`legacy_search_kernels`).
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats, decoded_shape, output_array
from entrenar_core.codecs.block_encoder import EncodingBlockCodec
from entrenar_core.stored_kernels import StoredKernel

_KERNELS = "entrenar_core.codecs.legacy_kernels"

decode_q4_0 = StoredKernel(_KERNELS, "decode_q4_0")
decode_q4_1 = StoredKernel(_KERNELS, "decode_q4_1")
decode_q5_0 = StoredKernel(_KERNELS, "decode_q5_0")
decode_q5_1 = StoredKernel(_KERNELS, "decode_q5_1")
decode_q8_0 = StoredKernel(_KERNELS, "decode_q8_0")
encode_q4_0 = StoredKernel(_KERNELS, "encode_q4_0", "int64")
encode_q4_1 = StoredKernel(_KERNELS, "encode_q4_1", "int64")
encode_q5_0 = StoredKernel(_KERNELS, "encode_q5_0", "int64")
encode_q5_1 = StoredKernel(_KERNELS, "encode_q5_1", "int64")
encode_q8_0 = StoredKernel(_KERNELS, "encode_q8_0", "int64")

_SMALLEST = np.finfo(np.float32).smallest_normal


class LegacyCodec(EncodingBlockCodec):
    """A type of blocks of 32. Its kernels go through whole rows, strided or not."""

    block_size = 32

    def decode(self, raw: Bytes, out: Floats | None = None) -> Floats:
        values = output_array(decoded_shape(self, raw), out)
        if values.size:
            self._decode_blocks(_rows(raw), values.reshape(-1, values.shape[-1]))
        return values

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        refused = self._encode(rows, importance, packed)
        return None if refused < 0 else refused

    @abstractmethod
    def _encode(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int:
        """Packs rows [R, C] into bytes [R, B]; the first block that it left out, or -1."""


class Q4_0Codec(LegacyCodec):
    """Four bits a value and a scale."""

    type_name = "Q4_0"
    block_bytes = 18

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q4_0(blocks, values)

    def _encode(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int:
        if importance is None:
            return int(encode_q4_0(rows, packed))
        from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q4_0

        return int(encode_weighted_q4_0(rows, shares(importance), packed))


class Q4_1Codec(LegacyCodec):
    """Four bits a value, a scale and a minimum."""

    type_name = "Q4_1"
    block_bytes = 20

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q4_1(blocks, values)

    def _encode(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int:
        if importance is None:
            return int(encode_q4_1(rows, packed))
        from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q4_1

        return int(encode_weighted_q4_1(rows, shares(importance), packed))


class Q5_0Codec(LegacyCodec):
    """Five bits a value and a scale."""

    type_name = "Q5_0"
    block_bytes = 22

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q5_0(blocks, values)

    def _encode(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int:
        if importance is None:
            return int(encode_q5_0(rows, packed))
        from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q5_0

        return int(encode_weighted_q5_0(rows, shares(importance), packed))


class Q5_1Codec(LegacyCodec):
    """Five bits a value, a scale and a minimum."""

    type_name = "Q5_1"
    block_bytes = 24

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q5_1(blocks, values)

    def _encode(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int:
        if importance is None:
            return int(encode_q5_1(rows, packed))
        from entrenar_core.codecs.legacy_search_kernels import encode_weighted_q5_1

        return int(encode_weighted_q5_1(rows, shares(importance), packed))


class Q8_0Codec(LegacyCodec):
    """Eight bits a value and a scale; an importance changes nothing."""

    type_name = "Q8_0"
    block_bytes = 34

    def encode(self, values: Floats, importance: Floats | None = None, out: Bytes | None = None) -> Bytes:
        del importance
        return super().encode(values, out=out)

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q8_0(blocks, values)

    def _encode(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int:
        del importance
        return int(encode_q8_0(rows, packed))


def shares(importance: Floats) -> Floats:
    """Importance of at most 1: products of its sums must stay in float32."""
    return importance / max(importance.max(initial=0.0), _SMALLEST)


def _rows(raw: Bytes) -> Bytes:
    """`raw` as [R, row_bytes]: as it is when it is such rows, with gaps between them or not; else a copy."""
    if raw.ndim == 2 and raw.strides[1] == 1:
        return raw
    return np.ascontiguousarray(raw).reshape(-1, raw.shape[-1])

"""The K-types: blocks of 256 values whose parts of 16 or 32 have small scales of their own under one float16 scale.

Decoded bit for bit as gguf-py does; encoded with no more error than llama.cpp's quantizer (`k_encode`).
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.block_codec import float16_scales
from entrenar_core.codecs.block_encoder import EncodingBlockCodec
from entrenar_core.codecs.k_encode import encode_q2_k, encode_q3_k, encode_q4_k, encode_q5_k, encode_q6_k
from entrenar_core.stored_kernels import StoredKernel

_KERNELS = "entrenar_core.codecs.k_quants_kernels"

decode_q2_k = StoredKernel(_KERNELS, "decode_q2_k")
decode_q3_k = StoredKernel(_KERNELS, "decode_q3_k")
decode_q4_k = StoredKernel(_KERNELS, "decode_q4_k")
decode_q5_k = StoredKernel(_KERNELS, "decode_q5_k")
decode_q6_k = StoredKernel(_KERNELS, "decode_q6_k")


class Q2_KCodec(EncodingBlockCodec):
    """Two bits a value; parts of 16 with a 4-bit scale and a 4-bit minimum."""

    type_name = "Q2_K"
    block_size = 256
    block_bytes = 84

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q2_k(blocks, float16_scales(blocks, 80, 84), _parts(), values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_q2_k(rows, importance, packed)


class Q3_KCodec(EncodingBlockCodec):
    """Three bits a value, signed; parts of 16 with a 6-bit scale."""

    type_name = "Q3_K"
    block_size = 256
    block_bytes = 110

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q3_k(blocks, float16_scales(blocks, 108, 110), _parts(), values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_q3_k(rows, importance, packed)


class Q4_KCodec(EncodingBlockCodec):
    """Four bits a value; parts of 32 with a 6-bit scale and a 6-bit minimum."""

    type_name = "Q4_K"
    block_size = 256
    block_bytes = 144

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q4_k(blocks, float16_scales(blocks, 0, 4), _parts(), values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_q4_k(rows, importance, packed)


class Q5_KCodec(EncodingBlockCodec):
    """Five bits a value; parts of 32 with a 6-bit scale and a 6-bit minimum."""

    type_name = "Q5_K"
    block_size = 256
    block_bytes = 176

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q5_k(blocks, float16_scales(blocks, 0, 4), _parts(), values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_q5_k(rows, importance, packed)


class Q6_KCodec(EncodingBlockCodec):
    """Six bits a value, signed; parts of 16 with an 8-bit scale."""

    type_name = "Q6_K"
    block_size = 256
    block_bytes = 210

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        decode_q6_k(blocks, float16_scales(blocks, 208, 210), _parts(), values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_q6_k(rows, importance, packed)


def _parts() -> Floats:
    """Room for the scale and the minimum of each part of a block: a decoder allocates nothing."""
    return np.empty((2, 16), np.float32)

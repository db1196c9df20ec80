"""Block types of four bits a value whose codes stand for 16 uneven levels: IQ4_NL, IQ4_XS, MXFP4 and NVFP4.

Decoded bit for bit as gguf-py does; IQ4_NL and IQ4_XS are also encoded, with no more error than llama.cpp's quantizer.
Kernels are imported with the first block: importing numba takes longer than opening a model.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.block_codec import BlockCodec, float16_scales
from entrenar_core.codecs.block_encoder import EncodingBlockCodec
from entrenar_core.codecs.iq4_encode import encode_iq4_nl, encode_iq4_xs

IQ4_LEVELS = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)
"""The levels of IQ4_NL and IQ4_XS, before their scale."""

FP4_LEVELS = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)
"""Twice the values of a 4-bit float with two exponent bits and one of mantissa (E2M1); -0 is 0."""

HALF_POWERS = np.ldexp(1.0, np.arange(256) - 128).astype(np.float32)
"""Half of the power of two that a byte stands for (the OCP microscaling formats' E8M0, without its NaN)."""


class IQ4_NLCodec(EncodingBlockCodec):
    """Blocks of 32 under one float16 scale."""

    type_name = "IQ4_NL"
    block_size = 32
    block_bytes = 18

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.level_quants_kernels import decode_levels

        decode_levels(blocks, 2, float16_scales(blocks, 0, 2), IQ4_LEVELS, values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_iq4_nl(rows, importance, packed)


class IQ4_XSCodec(EncodingBlockCodec):
    """Blocks of 256 under one float16 scale; parts of 32 with a 6-bit scale."""

    type_name = "IQ4_XS"
    block_size = 256
    block_bytes = 136

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.level_quants_kernels import decode_levels, iq4_xs_scales

        scales = np.empty((len(blocks), 8), np.float32)
        iq4_xs_scales(blocks, float16_scales(blocks, 0, 2), scales)
        decode_levels(blocks, 8, scales, IQ4_LEVELS, values)

    def _encode_rows(self, rows: Floats, importance: Floats | None, packed: Bytes) -> int | None:
        return encode_iq4_xs(rows, importance, packed)


class MXFP4Codec(BlockCodec):
    """Blocks of 32 4-bit floats under a power of two."""

    type_name = "MXFP4"
    block_size = 32
    block_bytes = 17

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.level_quants_kernels import decode_levels

        decode_levels(blocks, 1, HALF_POWERS[blocks[:, :1]], FP4_LEVELS, values)


class NVFP4Codec(BlockCodec):
    """Blocks of 64 4-bit floats; parts of 16 under an 8-bit float."""

    type_name = "NVFP4"
    block_size = 64
    block_bytes = 36

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.level_quants_kernels import decode_levels

        decode_levels(blocks, 4, HALF_UE4M3[blocks[:, :4]], FP4_LEVELS, values)


def _ue4m3_halves() -> Floats:
    """Half of what a byte stands for: four exponent bits, three of mantissa; bit 7 is not looked at and 0x7F is 0."""
    exponent, mantissa = np.divmod(np.arange(256) & 127, 8)
    values = np.where(exponent == 0, np.ldexp(mantissa, -10), np.ldexp(8 + mantissa, exponent - 11))
    values[0x7F] = 0.0
    return values.astype(np.float32)


HALF_UE4M3 = _ue4m3_halves()

"""IQ1, IQ2 and IQ3: blocks of 256 values whose magnitudes are rows of a fixed grid, under one float16 scale.

Decoded bit for bit as gguf-py does. Kernels are imported with the first block: importing numba takes longer than
opening a model.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.block_codec import BlockCodec, float16_scales
from entrenar_core.codecs.iq_grids import even_sign_masks, grid_words, shift_words, sign_masks


class IQ2_XXSCodec(BlockCodec):
    """2.06 bits a value: eight values a grid row, an even number of signs, parts of 32 with a 4-bit scale."""

    type_name = "IQ2_XXS"
    block_size = 256
    block_bytes = 66

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq2_xxs

        decode_iq2_xxs(blocks, float16_scales(blocks, 0, 2), grid_words("IQ2_XXS"), even_sign_masks(), values)


class IQ2_XSCodec(BlockCodec):
    """2.31 bits a value: eight values a grid row, an even number of signs, parts of 16 with a 4-bit scale."""

    type_name = "IQ2_XS"
    block_size = 256
    block_bytes = 74

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq2_xs

        decode_iq2_xs(blocks, float16_scales(blocks, 0, 2), grid_words("IQ2_XS"), even_sign_masks(), values)


class IQ2_SCodec(BlockCodec):
    """2.56 bits a value: eight values a grid row, a sign each, parts of 16 with a 4-bit scale."""

    type_name = "IQ2_S"
    block_size = 256
    block_bytes = 82

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq2_s

        decode_iq2_s(blocks, float16_scales(blocks, 0, 2), grid_words("IQ2_S"), sign_masks(), values)


class IQ3_XXSCodec(BlockCodec):
    """3.06 bits a value: four values a grid row, an even number of signs in eight, parts of 32 with a 4-bit scale."""

    type_name = "IQ3_XXS"
    block_size = 256
    block_bytes = 98

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq3_xxs

        decode_iq3_xxs(blocks, float16_scales(blocks, 0, 2), grid_words("IQ3_XXS"), even_sign_masks(), values)


class IQ3_SCodec(BlockCodec):
    """3.44 bits a value: four values a grid row, a sign each, parts of 32 with a 4-bit scale."""

    type_name = "IQ3_S"
    block_size = 256
    block_bytes = 110

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq3_s

        decode_iq3_s(blocks, float16_scales(blocks, 0, 2), grid_words("IQ3_S"), sign_masks(), values)


class IQ1_SCodec(BlockCodec):
    """1.56 bits a value: eight of -1, 0, 1 a grid row, parts of 32 with a 3-bit scale and a shift of ±1/8."""

    type_name = "IQ1_S"
    block_size = 256
    block_bytes = 50

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq1_s

        decode_iq1_s(blocks, float16_scales(blocks, 0, 2), grid_words("IQ1_S", 8), shift_words(), values)


class IQ1_MCodec(BlockCodec):
    """1.75 bits a value: as IQ1_S, with a scale for 16 and a shift for 8 values; d lies in four pieces."""

    type_name = "IQ1_M"
    block_size = 256
    block_bytes = 56

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.iq_quants_kernels import decode_iq1_m

        decode_iq1_m(blocks, _scattered_float16(blocks), grid_words("IQ1_M", 8), shift_words(), values)


def _scattered_float16(blocks: Bytes) -> Floats:
    """float32 [N, 1] of the float16 whose nibbles are the highest of the four words from byte 48 on."""
    nibbles = blocks[:, 49:56:2] >> 4
    halves = np.ascontiguousarray(nibbles[:, 0::2] | nibbles[:, 1::2] << 4).view("<f2")
    return halves.astype(np.float32)

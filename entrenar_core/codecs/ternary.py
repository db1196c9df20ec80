"""Block types of one or two bits a value: TQ1_0 and TQ2_0 (-1, 0, 1) and Q1_0 (-1, 1), under one float16 scale.

Decoded bit for bit as llama.cpp does, TQ1_0 and TQ2_0 as gguf-py too, which does not know Q1_0. Kernels are imported
with the first block: importing numba takes longer than opening a model.
"""

from __future__ import annotations

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.block_codec import BlockCodec, float16_scales


class TQ1_0Codec(BlockCodec):
    """1.69 bits a value: five values a byte, as digits to the base 3."""

    type_name = "TQ1_0"
    block_size = 256
    block_bytes = 54

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.ternary_kernels import decode_tq1_0

        decode_tq1_0(blocks, float16_scales(blocks, 52, 54), values)


class TQ2_0Codec(BlockCodec):
    """2.06 bits a value; the fourth code stands for 2."""

    type_name = "TQ2_0"
    block_size = 256
    block_bytes = 66

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.ternary_kernels import decode_tq2_0

        decode_tq2_0(blocks, float16_scales(blocks, 64, 66), values)


class Q1_0Codec(BlockCodec):
    """One bit a value and a scale for 128: -d or d."""

    type_name = "Q1_0"
    block_size = 128
    block_bytes = 18

    def _decode_blocks(self, blocks: Bytes, values: Floats) -> None:
        from entrenar_core.codecs.ternary_kernels import decode_q1_0

        decode_q1_0(blocks, float16_scales(blocks, 0, 2), values)

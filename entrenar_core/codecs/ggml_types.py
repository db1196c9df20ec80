"""The table of GGML tensor types: their id in a file, block size in values and block size in bytes.

Our own copy of gguf-py's `GGML_QUANT_SIZES`, because importing that package takes longer than opening a model; a test
holds the two against each other.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GGMLType:
    """How one tensor type lays values out: `block_size` values take `block_bytes` bytes.

    `swap_bytes` is the size of the unit whose bytes are reversed in a big-endian file; None when a block mixes units of
    several sizes, so that no plain swap makes it little-endian.
    """

    id: int
    name: str
    block_size: int
    block_bytes: int
    swap_bytes: int | None = None

    def row_bytes(self, n_values: int) -> int:
        """Bytes of a row of `n_values`, which must be a multiple of the block size."""
        return n_values // self.block_size * self.block_bytes


GGML_TYPES: tuple[GGMLType, ...] = (
    GGMLType(0, "F32", 1, 4, 4),
    GGMLType(1, "F16", 1, 2, 2),
    GGMLType(2, "Q4_0", 32, 18),
    GGMLType(3, "Q4_1", 32, 20),
    GGMLType(6, "Q5_0", 32, 22),
    GGMLType(7, "Q5_1", 32, 24),
    GGMLType(8, "Q8_0", 32, 34),
    GGMLType(9, "Q8_1", 32, 40),
    GGMLType(10, "Q2_K", 256, 84),
    GGMLType(11, "Q3_K", 256, 110),
    GGMLType(12, "Q4_K", 256, 144),
    GGMLType(13, "Q5_K", 256, 176),
    GGMLType(14, "Q6_K", 256, 210),
    GGMLType(15, "Q8_K", 256, 292),
    GGMLType(16, "IQ2_XXS", 256, 66),
    GGMLType(17, "IQ2_XS", 256, 74),
    GGMLType(18, "IQ3_XXS", 256, 98),
    GGMLType(19, "IQ1_S", 256, 50),
    GGMLType(20, "IQ4_NL", 32, 18),
    GGMLType(21, "IQ3_S", 256, 110),
    GGMLType(22, "IQ2_S", 256, 82),
    GGMLType(23, "IQ4_XS", 256, 136),
    GGMLType(24, "I8", 1, 1, 1),
    GGMLType(25, "I16", 1, 2, 2),
    GGMLType(26, "I32", 1, 4, 4),
    GGMLType(27, "I64", 1, 8, 8),
    GGMLType(28, "F64", 1, 8, 8),
    GGMLType(29, "IQ1_M", 256, 56),
    GGMLType(30, "BF16", 1, 2, 2),
    GGMLType(34, "TQ1_0", 256, 54),
    GGMLType(35, "TQ2_0", 256, 66),
    GGMLType(39, "MXFP4", 32, 17, 1),
    GGMLType(40, "NVFP4", 64, 36, 1),
    GGMLType(41, "Q1_0", 128, 18),
)

TYPE_BY_ID: dict[int, GGMLType] = {entry.id: entry for entry in GGML_TYPES}
TYPE_BY_NAME: dict[str, GGMLType] = {entry.name: entry for entry in GGML_TYPES}


def is_few_bits(type_name: str) -> bool:
    """Whether values of this type share scales in blocks."""
    return TYPE_BY_NAME[type_name].block_size > 1


REMOVED_TYPES: dict[int, str] = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}
"""Type ids that once existed and that GGML itself no longer reads."""

"""Random blocks of any type, with the scales that decoders get wrong, and their values as gguf-py has them."""

from __future__ import annotations

import numpy as np
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME

HALVES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
    "IQ2_XXS": (0,),
    "IQ2_XS": (0,),
    "IQ2_S": (0,),
    "IQ3_XXS": (0,),
    "IQ3_S": (0,),
    "IQ1_S": (0,),
    "IQ4_NL": (0,),
    "IQ4_XS": (0,),
    "TQ1_0": (52,),
    "TQ2_0": (64,),
    "Q1_0": (0,),
    "Q4_0": (0,),
    "Q4_1": (0, 2),
    "Q5_0": (0,),
    "Q5_1": (0, 2),
    "Q8_0": (0,),
}
"""Where a block keeps float16 numbers; IQ1_M scatters the nibbles of its one."""

ODD_HALVES = np.array(
    [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0xBC00, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7E00, 0xFE01, 0x7C01],
    np.uint16,
)
"""Zeros, subnormals, the smallest normal number, a negative one, the largest, infinities and NaNs."""


def random_blocks(type_name: str, n_blocks: int, seed: int = 1) -> np.ndarray:
    """uint8 [n_blocks, block_bytes]; the first of them have odd scales."""
    raw = np.random.default_rng(seed).integers(0, 256, (n_blocks, TYPE_BY_NAME[type_name].block_bytes), np.uint8)
    for place, first in enumerate(HALVES.get(type_name, ())):
        odd = np.roll(ODD_HALVES, 3 * place)[:n_blocks]
        raw[: len(odd), first : first + 2] = odd.view(np.uint8).reshape(-1, 2)
    if type_name == "IQ1_M":
        odd = ODD_HALVES[:n_blocks]
        for word in range(4):
            raw[: len(odd), 49 + 2 * word] = raw[: len(odd), 49 + 2 * word] & 15 | odd >> 4 * word << 4 & 0xF0
    return raw


def finite_blocks(type_name: str, n_blocks: int, seed: int = 1) -> np.ndarray:
    """uint8 [n_blocks, block_bytes] with scales that are numbers."""
    raw = np.random.default_rng(seed).integers(0, 256, (n_blocks, TYPE_BY_NAME[type_name].block_bytes), np.uint8)
    for first in HALVES.get(type_name, ()):
        raw[:, first + 1] &= 0xBF
    if type_name == "IQ1_M":
        raw[:, 55] &= 0xBF
    return raw


def dequantized(type_name: str, raw: np.ndarray) -> np.ndarray:
    """float32 values of packed rows by gguf-py; of Q1_0, which it does not know, by its definition."""
    if type_name == "Q1_0":
        return one_bit_values(raw.reshape(-1, 18)).reshape(*raw.shape[:-1], -1)
    with np.errstate(all="ignore"):
        return dequantize(raw, GGMLQuantizationType[type_name])


def assert_same_bits(ours: np.ndarray, theirs: np.ndarray) -> None:
    """The same bits in every value that is a number, and NaN in the same places."""
    assert ours.dtype == theirs.dtype == np.float32
    assert ours.shape == theirs.shape
    number = ~np.isnan(theirs)
    assert np.array_equal(ours[number].view(np.uint32), theirs[number].view(np.uint32))
    assert np.isnan(ours[~number]).all()


def one_bit_values(blocks: np.ndarray) -> np.ndarray:
    """Q1_0: each bit, the lowest of a byte first, is -d or d."""
    d = np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32)
    return np.where(np.unpackbits(blocks[:, 2:], axis=1, bitorder="little"), d, -d)


def weight_blocks(type_name: str, shape: tuple[int, int], std: float, seed: int = 1) -> np.ndarray:
    """Packed rows uint8 [out, row_bytes] of a weight [out, in] with values of about this standard deviation.

    For types with float16 scales that nobody encodes: random codes, and the same scale in every block.
    """
    kind = TYPE_BY_NAME[type_name]
    raw = random_blocks(type_name, shape[0] * shape[1] // kind.block_size, seed)

    def scaled(size: float) -> np.ndarray:
        for first in HALVES[type_name]:
            raw[:, first : first + 2] = np.array([size], "<f2").view(np.uint8)
        return raw.reshape(shape[0], -1)

    return scaled(std / float(dequantized(type_name, scaled(1.0)).std()))

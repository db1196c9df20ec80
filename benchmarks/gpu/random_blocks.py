"""Matrices in GGML blocks made of random bytes, without encoding anything.

For tests of decoding every bit is random. For models the codes are random and all scales of a type are one, chosen so
that values lie evenly around 0 with a given standard deviation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import codec_for

_LARGEST = 1e4


@dataclass(frozen=True)
class BlockForm:
    """A type whose values are scale·(code - middle).

    Attributes:
        constant: what stands in every block, by offset: bytes.
        scale_at, middle_at: offsets of the float16 numbers of the block; middle_at None where the middle is fixed.
        spread: standard deviation of the values at a scale of 1.
        middle: of the code, in units of the scale, where it is a number of the block.
    """

    constant: dict[int, bytes]
    scale_at: int
    spread: float
    middle_at: int | None = None
    middle: float = 0.0


FORMS = {
    "Q4_0": BlockForm({}, scale_at=0, spread=4.6),
    "Q8_0": BlockForm({}, scale_at=0, spread=74.0),
    # scales and minima of the eight parts are 32 each, in six bits
    "Q4_K": BlockForm({4: bytes([160] * 8 + [0] * 4)}, scale_at=0, spread=32 * 4.6, middle_at=2, middle=7.5),
    "Q6_K": BlockForm({192: bytes([32] * 16)}, scale_at=208, spread=32 * 18.5),
}


def random_blocks(type_name: str, shape: tuple[int, int], seed: int = 0) -> PackedMatrix:
    """A matrix [out, in] whose blocks are random bytes, or zeros where those mean no number or a huge one."""
    codec = codec_for(type_name)
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (shape[0] * (shape[1] // codec.block_size), codec.block_bytes), np.uint8)
    with np.errstate(all="ignore"):
        magnitudes = np.abs(codec.decode(raw)).max(axis=1)
    raw[~(magnitudes < _LARGEST)] = 0
    return PackedMatrix(raw.reshape(shape[0], -1), type_name)


def weight_blocks(type_name: str, n_values: int, std: float, seed: int) -> np.ndarray:
    """uint8 [blocks, block_bytes] of a type in `FORMS`, for n_values random values of this standard deviation."""
    codec, form = codec_for(type_name), FORMS[type_name]
    raw = np.random.default_rng(seed).integers(0, 256, (n_values // codec.block_size, codec.block_bytes), np.uint8)
    for offset, stated in form.constant.items():
        raw[:, offset : offset + len(stated)] = np.frombuffer(stated, np.uint8)
    numbers = {form.scale_at: std / form.spread}
    if form.middle_at is not None:
        numbers[form.middle_at] = form.middle * std / form.spread
    for offset, number in numbers.items():
        for first, sign in enumerate((1, -1)):  # codes have no middle of their own, so blocks take turns
            raw[first::2, offset : offset + 2] = np.array([sign * number], np.float16).view(np.uint8)
    return raw

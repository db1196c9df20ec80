"""Values as their type holds them: encoded and decoded again, and which of them lay in the range of their block.

The range of a block is found by the codec itself: the same block with every code at its lowest, and at its highest,
decodes to the ends of what it can represent, whatever scales and minimums it has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.base import Bytes, Codec, Floats
from entrenar_core.errors import FormatError

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class CodeBytes:
    """Where the codes of a block lie, the bytes that make all of them lowest and highest, and how many codes there are.

    The other bytes hold scales and minimums.
    """

    start: int
    stop: int
    levels: int
    lowest: int = 0x00
    highest: int = 0xFF


CODES: Mapping[str, CodeBytes] = {
    "Q4_0": CodeBytes(2, 18, 16),
    "Q4_1": CodeBytes(4, 20, 16),
    "Q5_0": CodeBytes(2, 22, 32),
    "Q5_1": CodeBytes(4, 24, 32),
    "Q8_0": CodeBytes(2, 34, 256, 0x80, 0x7F),
    "Q2_K": CodeBytes(16, 80, 4),
    "Q3_K": CodeBytes(0, 96, 8),
    "Q4_K": CodeBytes(16, 144, 16),
    "Q5_K": CodeBytes(16, 176, 32),
    "Q6_K": CodeBytes(0, 192, 64),
    "IQ4_NL": CodeBytes(2, 18, 16),
    "IQ4_XS": CodeBytes(8, 136, 16),
}
"""By type (ggml's `ggml-common.h`). Types without blocks have no range that a value could be out of."""


def round_trip(
    codec: Codec,
    values: Floats,
    importance: Floats | None = None,
    out: Floats | None = None,
    inside: Flags | None = None,
) -> Floats:
    """decode(encode(values)), float32 [R, C].

    Args:
        codec: of the type.
        values: float32 [R, C].
        importance: float32 [C]; see `Codec.encode`.
        out: where the result goes.
        inside: bool [R, C], filled with `in_range`.

    Raises:
        FormatError: a value does not fit the type, or the type can only be decoded.
    """
    raw = codec.encode(values, importance)
    if inside is not None:
        inside[...] = in_range(codec, raw, values)
    return codec.decode(raw, out)


def in_range(codec: Codec, raw: Bytes, values: Floats) -> Flags:
    """Which values [R, C] would get a code of their own in the blocks uint8 [R, B] that they were encoded to.

    A value is out of range when it lies more than half a step beyond the lowest or the highest value that its block
    (its sub-block, for K types) can represent, so that its code was clamped. A step is the range over the number of
    codes less one. A block whose scale is 0 represents one value only and clips nothing, or it could never change.
    """
    if codec.block_size == 1:
        return np.ones(values.shape, np.bool_)
    codes = CODES.get(codec.type_name)
    if codes is None:
        raise FormatError(f"the range of a block of {codec.type_name} is not known", hint="use straight_through")
    ends = [_with_codes(codec, raw, codes, byte) for byte in (codes.lowest, codes.highest)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    half = (high - low) * np.float32(0.5 / (codes.levels - 1))
    found: Flags = ((values >= low - half) & (values <= high + half)) | (low == high)
    return found


def _with_codes(codec: Codec, raw: Bytes, codes: CodeBytes, byte: int) -> Floats:
    """What the blocks would decode to with all code bytes at `byte`."""
    blocks = raw.reshape(*raw.shape[:-1], -1, codec.block_bytes).copy()
    blocks[..., codes.start : codes.stop] = byte
    return codec.decode(blocks.reshape(raw.shape))

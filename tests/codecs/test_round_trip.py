"""What a type makes of values, and which of them its blocks have room for."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import ENCODABLE, codec_for
from entrenar_core.codecs.round_trip import CODES, in_range, round_trip
from entrenar_core.errors import FormatError
from tests.codecs.blocks import random_rows
from tests.codecs.error_bounds import HALF_STEP, SLACK

BLOCK_TYPES = sorted(name for name in ENCODABLE if TYPE_BY_NAME[name].block_size > 1)
LEGACY = [name for name in BLOCK_TYPES if TYPE_BY_NAME[name].block_size == 32 and name != "IQ4_NL"]


def flags_of(type_name: str, values: np.ndarray) -> np.ndarray:
    codec = codec_for(type_name)
    return in_range(codec, codec.encode(values), values)


def block(*values: float) -> np.ndarray:
    """One block of 32: the given values, then zeros."""
    row = np.zeros((1, 32), np.float32)
    row[0, : len(values)] = values
    return row


@pytest.mark.parametrize("type_name", sorted(ENCODABLE))
def test_a_round_trip_is_encoding_and_decoding(type_name: str) -> None:
    codec, values = codec_for(type_name), random_rows(4, 512, seed=3)
    expected = codec.decode(codec.encode(values))
    out, inside = np.empty_like(values), np.zeros(values.shape, np.bool_)
    assert round_trip(codec, values, out=out, inside=inside) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(inside, in_range(codec, codec.encode(values), values))


def test_every_block_type_that_can_be_written_has_a_known_range() -> None:
    assert set(BLOCK_TYPES) <= CODES.keys()


@pytest.mark.parametrize("type_name", sorted(CODES))
def test_codes_lie_inside_the_block_and_leave_room_for_a_scale(type_name: str) -> None:
    codes, kind = CODES[type_name], TYPE_BY_NAME[type_name]
    assert 0 <= codes.start < codes.stop <= kind.block_bytes
    assert (codes.stop - codes.start) * 8 == kind.block_size * (codes.levels - 1).bit_length()


@pytest.mark.parametrize("type_name", sorted(CODES))
def test_the_ends_of_a_block_are_what_gguf_py_decodes_at_most(type_name: str, rng: np.random.Generator) -> None:
    """Random codes under the same scales never leave the ends that all-low and all-high codes decode to."""
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    codes, kind = CODES[type_name], TYPE_BY_NAME[type_name]
    blocks = rng.integers(0, 256, (20, kind.block_bytes), dtype=np.uint8)
    halves = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
    for start in halves.get(type_name, (0, 2) if type_name in ("Q4_1", "Q5_1") else (0,)):
        blocks[:, start : start + 2] = np.float16(rng.uniform(0.5, 2)).reshape(1).view(np.uint8)

    def decoded(byte: int | None) -> np.ndarray:
        changed = blocks.copy()
        if byte is not None:
            changed[:, codes.start : codes.stop] = byte
        return dequantize(changed, GGMLQuantizationType[type_name])

    ends = [decoded(codes.lowest), decoded(codes.highest)]
    low, high = np.minimum(*ends), np.maximum(*ends)
    middle = decoded(None)
    assert ((middle >= low) & (middle <= high)).all()
    assert (high > low).any()


def test_q4_0_has_no_code_for_the_other_sign_of_its_largest_value() -> None:
    """d = 8 / -8 = -1, so codes 0 ... 15 stand for 8 ... -7; -7.6 would need code 16."""
    flags = flags_of("Q4_0", block(8, -7, -7.4, -7.6, -8, 0.3))
    assert flags[0, :6].tolist() == [True, True, True, False, False, True]


@pytest.mark.parametrize("type_name", sorted({"Q4_1", "Q5_1", "Q8_0"} & set(BLOCK_TYPES)))
def test_types_that_span_their_block_clip_nothing(type_name: str, rng: np.random.Generator) -> None:
    """As long as their scale is a normal float16: a subnormal one may be rounded to much less."""
    assert flags_of(type_name, rng.standard_normal((64, 256)).astype(np.float32)).all()


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
def test_a_block_without_a_scale_clips_nothing(type_name: str) -> None:
    size = TYPE_BY_NAME[type_name].block_size
    assert flags_of(type_name, np.zeros((1, size), np.float32)).all()


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_floats_have_no_blocks_to_be_out_of(type_name: str) -> None:
    assert flags_of(type_name, random_rows(2, 64)).all()


def test_a_type_of_unknown_blocks_is_refused() -> None:
    codec = codec_for("TQ1_0")
    with pytest.raises(FormatError, match="range of a block of TQ1_0 is not known"):
        in_range(codec, np.zeros((1, codec.block_bytes), np.uint8), np.zeros((1, 256), np.float32))


@pytest.mark.property
@pytest.mark.parametrize("type_name", LEGACY)
@given(seed=st.integers(0, 2**32 - 1))
def test_a_second_round_trip_changes_nothing(type_name: str, seed: int) -> None:
    codec, values = codec_for(type_name), random_rows(2, 64, seed)
    once = round_trip(codec, values)
    if type_name in ("Q4_1", "Q5_1"):  # their scale is that of the decoded ends, which rounds anew
        np.testing.assert_allclose(round_trip(codec, once), once, rtol=2e-3, atol=2e-3 * float(np.abs(once).max()))
    else:
        np.testing.assert_array_equal(round_trip(codec, once), once)


@pytest.mark.property
@pytest.mark.parametrize("type_name", LEGACY)
@given(seed=st.integers(0, 2**32 - 1))
@example(seed=34592)  # Q8_0: its float16 scale moves the extreme by 127·2^-11 steps, an eighth of half a step
def test_only_clipped_values_are_more_than_half_a_step_off(type_name: str, seed: int) -> None:
    """Apart from what float16 does to the scale; for types whose codes are evenly spaced and rounded to the nearest."""
    codec = codec_for(type_name)
    values = np.random.default_rng(seed).standard_normal((4, 32)).astype(np.float32)
    raw = codec.encode(values)
    errors = np.abs(codec.decode(raw).astype(np.float64) - values)
    bound = np.broadcast_to(HALF_STEP[type_name](values.astype(np.float64)) * SLACK, values.shape)
    inside = in_range(codec, raw, values)
    assert (errors[inside] <= bound[inside]).all()

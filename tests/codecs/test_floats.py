"""F32, F16 and BF16: exact decoding, nearest-even encoding, no silent infinities."""

from __future__ import annotations

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.codecs.base import CHUNK_VALUES, encoded_shape
from entrenar_core.codecs.floats import F32Codec
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError

ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)


def bits(values: np.ndarray) -> list[int]:
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).tolist()


def encode_one(type_name: str, value: float) -> int:
    return int(codec_for(type_name).encode(np.array([value], np.float32)).view(np.uint16)[0])


def test_f32_is_a_copy_of_the_bytes() -> None:
    values = np.array([[1.5, -0.0], [np.inf, 1e-45]], np.float32)
    packed = codec_for("F32").encode(values)
    assert packed.shape == (2, 8)
    assert packed.tobytes() == values.tobytes()
    assert bits(codec_for("F32").decode(packed)) == bits(values)


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_every_half_decodes_as_in_gguf_py(type_name: str) -> None:
    ours = codec_for(type_name).decode(ALL_HALVES.view(np.uint8))
    theirs = dequantize(ALL_HALVES.view(np.uint8), GGMLQuantizationType[type_name])
    number = ~np.isnan(theirs)
    assert bits(ours[number]) == bits(theirs[number])
    assert np.isnan(ours[~number]).all()


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_every_half_that_is_a_number_survives_decode_and_encode(type_name: str) -> None:
    codec = codec_for(type_name)
    values = codec.decode(ALL_HALVES.view(np.uint8))
    number = ~np.isnan(values)
    assert np.array_equal(codec.encode(values).view(np.uint16)[number], ALL_HALVES[number])


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_random_values_encode_as_in_gguf_py(type_name: str) -> None:
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((3, 70_000)) * 2.0 ** rng.integers(-30, 14, (3, 70_000))).astype(np.float32)
    theirs = quantize(values, GGMLQuantizationType[type_name]).view(np.uint8)
    assert np.array_equal(codec_for(type_name).encode(values), theirs)


@pytest.mark.property
@pytest.mark.parametrize("type_name", ["F16", "BF16"])
@given(pattern=st.integers(0, 2**32 - 1))
def test_any_float32_encodes_to_the_nearest_half_with_ties_to_even(type_name: str, pattern: int) -> None:
    value = np.array([pattern], np.uint32).view(np.float32)
    codec = codec_for(type_name)
    with np.errstate(all="ignore"):
        expected = quantize(value, GGMLQuantizationType[type_name]).view(np.uint16)
    if np.isnan(value[0]):
        assert np.isnan(codec.decode(codec.encode(value))[0])
    elif np.isfinite(value[0]) and (expected[0] & 0x7FFF) == (0x7C00 if type_name == "F16" else 0x7F80):
        with pytest.raises(FormatError, match="infinite"):
            codec.encode(value)
    else:
        assert codec.encode(value).view(np.uint16)[0] == expected[0]


def test_f16_rounds_ties_to_even() -> None:
    assert encode_one("F16", 1.0 + 2.0**-11) == 0x3C00
    assert encode_one("F16", 1.0 + 3 * 2.0**-11) == 0x3C02
    assert encode_one("F16", 2.0**-25) == 0
    assert encode_one("F16", 3 * 2.0**-25) == 2


def test_bf16_rounds_ties_to_even() -> None:
    assert encode_one("BF16", 1.0 + 2.0**-8) == 0x3F80
    assert encode_one("BF16", 1.0 + 3 * 2.0**-8) == 0x3F82


@pytest.mark.parametrize(("type_name", "quiet"), [("F16", 0x0200), ("BF16", 0x0040)])
def test_a_nan_keeps_its_sign_and_becomes_quiet(type_name: str, quiet: int) -> None:
    signalling = np.array([0xFF800001, 0x7FFFFFFF], np.uint32).view(np.float32)
    encoded = codec_for(type_name).encode(signalling).view(np.uint16)
    assert (encoded & quiet == quiet).all()
    assert (encoded >> 15).tolist() == [1, 0]
    assert np.isnan(codec_for(type_name).decode(encoded.view(np.uint8))).all()


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_an_infinity_stays_one(type_name: str) -> None:
    values = np.array([np.inf, -np.inf], np.float32)
    assert codec_for(type_name).decode(codec_for(type_name).encode(values)).tolist() == [np.inf, -np.inf]


def test_the_largest_half_is_kept_and_the_next_float_is_refused() -> None:
    assert encode_one("F16", 65519.99) == 0x7BFF
    with pytest.raises(FormatError, match="65520 is too large for F16"):
        encode_one("F16", 65520.0)
    with pytest.raises(FormatError, match="too large for BF16"):
        encode_one("BF16", float(np.finfo(np.float32).max))


def test_a_finite_value_that_overflows_is_found_beside_infinities_in_a_later_chunk() -> None:
    values = np.zeros(CHUNK_VALUES + 10, np.float32)
    values[-3:] = [np.inf, -1e6, np.nan]
    with pytest.raises(FormatError, match="-1e\\+06 is too large"):
        codec_for("F16").encode(values)


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_decode_fills_the_array_it_is_given(type_name: str) -> None:
    values = np.arange(12, dtype=np.float32).reshape(3, 4)
    out = np.empty((3, 4), np.float32)
    codec = codec_for(type_name)
    assert codec.decode(codec.encode(values), out) is out
    assert np.array_equal(out, values)
    with pytest.raises(TypeError, match="shape"):
        codec.decode(codec.encode(values), np.empty((4, 3), np.float32))


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_strided_rows_are_read_and_written(type_name: str) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    codec = codec_for(type_name)
    assert np.array_equal(codec.decode(codec.encode(values[:, ::2])), values[:, ::2])
    spread = np.zeros((4, 2 * 6 * codec.block_bytes), np.uint8)[:, ::2]
    spread[...] = codec.encode(values)
    assert np.array_equal(codec.decode(spread), values)


def test_a_row_that_is_no_whole_number_of_blocks_is_refused() -> None:
    with pytest.raises(FormatError, match="3 bytes is not a whole number of F16"):
        codec_for("F16").decode(np.zeros((2, 3), np.uint8))


def test_a_wrong_dtype_is_a_programming_error() -> None:
    with pytest.raises(TypeError, match="float64"):
        codec_for("F16").encode(np.zeros(3))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="uint8"):
        codec_for("F16").decode(np.zeros(3, np.int16))  # type: ignore[arg-type]


def test_values_that_do_not_fill_their_blocks_are_refused() -> None:
    class PairCodec(F32Codec):
        block_size = 2

    with pytest.raises(FormatError, match="3 values does not divide into F32 blocks of 2"):
        encoded_shape(PairCodec(), np.zeros((2, 3), np.float32))

"""Q4_0 and Q8_0: decoded as gguf-py decodes, encoded by the rules of ggml's reference quantizer.

That the bytes are those of llama.cpp itself is shown in tests/oracle/test_codecs_llama_cpp.py.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize, quantize
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.codecs.base import CHUNK_VALUES
from entrenar_core.codecs.registry import ENCODABLE, codec_for
from entrenar_core.errors import FormatError
from tests.codecs.blocks import adversarial_blocks, random_rows

# Plain kernels (ENTRENAR_JIT=0) warn of what compiled ones do silently; infinities and NaNs are meant to arise here.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered:RuntimeWarning")

TYPES = ("Q4_0", "Q8_0")


def one_block(*values: float) -> np.ndarray:
    """A block that begins with `values` and ends with zeros."""
    return np.array([*values, *[0.0] * (32 - len(values))], np.float32)


def codes(type_name: str, block: np.ndarray) -> list[int]:
    packed = codec_for(type_name).encode(block)
    if type_name == "Q8_0":
        return packed[2:].view(np.int8).tolist()
    return [*(packed[2:] & 15).tolist(), *(packed[2:] >> 4).tolist()]


def scale(type_name: str, block: np.ndarray) -> float:
    return float(codec_for(type_name).encode(block)[:2].view(np.float16)[0])


@pytest.mark.parametrize("type_name", TYPES)
def test_every_code_and_every_scale_decodes_as_in_gguf_py(type_name: str) -> None:
    codec = codec_for(type_name)
    halves = np.arange(0, 1 << 16, 7, dtype=np.uint16)
    raw = np.empty((len(halves), codec.block_bytes), np.uint8)
    raw[:, :2] = halves.view(np.uint8).reshape(-1, 2)
    raw[:, 2:] = (np.arange(raw[:, 2:].size) % 256).reshape(raw[:, 2:].shape)
    with np.errstate(all="ignore"):
        theirs = dequantize(raw, GGMLQuantizationType[type_name])
    ours, number = codec.decode(raw), ~np.isnan(theirs)
    assert np.array_equal(ours[number].view(np.uint32), theirs[number].view(np.uint32))
    assert np.isnan(ours[~number]).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_random_rows_encode_as_in_gguf_py(type_name: str) -> None:
    rows = random_rows(64, 256)
    assert np.array_equal(codec_for(type_name).encode(rows), quantize(rows, GGMLQuantizationType[type_name]))


def test_q4_0_takes_its_scale_from_the_first_value_of_largest_magnitude_with_its_sign() -> None:
    assert scale("Q4_0", one_block(1.0, -8.0, 8.0)) == 1.0
    assert scale("Q4_0", one_block(1.0, 8.0, -8.0)) == -1.0
    assert codes("Q4_0", one_block(1.0, -8.0, 8.0))[:4] == [9, 0, 15, 8]
    assert codes("Q4_0", one_block(1.0, 8.0, -8.0))[:4] == [7, 0, 15, 8]


def test_q4_0_keeps_the_second_half_of_a_block_in_the_high_nibbles() -> None:
    block = np.arange(-16, 16, dtype=np.float32)
    packed = codec_for("Q4_0").encode(block)
    assert (packed[2] & 15, packed[2] >> 4) == (0, 8)
    assert (packed[17] & 15, packed[17] >> 4) == (8, 15)


def test_q8_0_rounds_halves_away_from_zero() -> None:
    block = one_block(127.0, 0.5, -0.5, 1.5, -2.5, 0.49999997, -0.49999997, -127.0)
    assert codes("Q8_0", block)[:8] == [127, 1, -1, 2, -3, 0, 0, -127]


@pytest.mark.parametrize("type_name", TYPES)
def test_a_block_of_zeros_is_exact(type_name: str) -> None:
    codec = codec_for(type_name)
    assert not codec.decode(codec.encode(np.zeros(64, np.float32))).any()


@pytest.mark.parametrize(("type_name", "levels"), [("Q4_0", 8), ("Q8_0", 127)])
def test_codes_come_from_the_scale_before_it_is_rounded_to_float16(type_name: str, levels: int) -> None:
    exact = 1.0 + 2.0**-12  # float16 rounds it to 1
    block = one_block(-exact * levels, 2.5 * exact)
    assert abs(scale(type_name, block)) == 1.0
    assert codes(type_name, block)[1] == {"Q4_0": 11, "Q8_0": 3}[type_name]
    assert codes(type_name, one_block(-exact * levels, 2.5))[1] == {"Q4_0": 10, "Q8_0": 2}[type_name]


@pytest.mark.parametrize("type_name", TYPES)
def test_a_scale_whose_inverse_overflows_gives_zeros(type_name: str) -> None:
    block = one_block(1e-40, -1e-41)
    assert codes(type_name, block) == [0] * 32
    assert not codec_for(type_name).decode(codec_for(type_name).encode(block)).any()


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_refused(type_name: str, value: float) -> None:
    rows = random_rows(3, 64)
    rows[1, 40] = value
    with pytest.raises(FormatError, match=f"{value:g} does not fit a block of {type_name}"):
        codec_for(type_name).encode(rows)


@pytest.mark.parametrize(("type_name", "largest"), [("Q4_0", 8 * 65504.0), ("Q8_0", 127 * 65504.0)])
def test_a_value_whose_scale_is_beyond_float16_is_refused(type_name: str, largest: float) -> None:
    codec = codec_for(type_name)
    assert abs(codec.decode(codec.encode(one_block(-largest)))[0]) == largest
    with pytest.raises(FormatError, match=f"does not fit a block of {type_name}"):
        codec.encode(one_block(0.5, -largest * 1.001))


@pytest.mark.parametrize("type_name", TYPES)
def test_a_bad_block_is_found_in_a_later_chunk(type_name: str) -> None:
    values = np.zeros(CHUNK_VALUES + 64, np.float32)
    values[-1] = np.nan
    with pytest.raises(FormatError, match="nan does not fit"):
        codec_for(type_name).encode(values)


@pytest.mark.parametrize("type_name", TYPES)
def test_more_than_a_chunk_goes_there_and_back(type_name: str) -> None:
    codec = codec_for(type_name)
    whole = random_rows(3, CHUNK_VALUES // 2 + 32)
    packed = codec.encode(whole)
    for row, blocks in zip(whole, packed, strict=True):
        assert np.array_equal(codec.encode(row), blocks)
    out = np.empty_like(whole)
    assert codec.decode(packed, out) is out
    assert np.array_equal(out[1], codec.decode(packed[1]))


@pytest.mark.parametrize("type_name", TYPES)
def test_leading_axes_stay_and_strided_rows_are_read(type_name: str) -> None:
    codec = codec_for(type_name)
    values = random_rows(6, 128).reshape(2, 3, 128)
    packed = codec.encode(values)
    assert packed.shape == (2, 3, 4 * codec.block_bytes)
    middle = packed[:, :, codec.block_bytes : 3 * codec.block_bytes]
    assert np.array_equal(codec.decode(middle), codec.decode(packed)[:, :, 32:96])
    assert np.array_equal(codec.encode(values[:, :, 32:96]), middle)


@pytest.mark.parametrize("type_name", TYPES)
def test_what_was_decoded_encodes_to_the_same_codes_and_values(type_name: str) -> None:
    """Holds where the extreme code occurs, which is in every block that an encoder wrote."""
    codec = codec_for(type_name)
    values = codec.decode(codec.encode(random_rows(32, 256)))
    np.testing.assert_allclose(codec.decode(codec.encode(values)), values, rtol=1e-3)


@pytest.mark.property
@pytest.mark.parametrize(("type_name", "levels"), [("Q4_0", 8), ("Q8_0", 127)])
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-14, 14))
def test_no_value_moves_by_more_than_its_step(type_name: str, levels: int, seed: int, exponent: int) -> None:
    """Half a step by rounding, a whole one where Q4_0 cuts the code 16 off, 2⁻¹¹ of the value by the float16 scale."""
    values = (np.random.default_rng(seed).standard_normal((4, 32)) * 2.0**exponent).astype(np.float32)
    codec = codec_for(type_name)
    step = np.abs(values).max(axis=1, keepdims=True) / levels
    allowed = step * (1.0 if type_name == "Q4_0" else 0.5) + np.abs(values) * 2.0**-10 + levels * 2.0**-25
    assert (np.abs(codec.decode(codec.encode(values)) - values) <= allowed * 1.001).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_adversarial_blocks_decode_to_finite_values(type_name: str) -> None:
    codec = codec_for(type_name)
    assert np.isfinite(codec.decode(codec.encode(adversarial_blocks()))).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_a_row_of_part_blocks_is_refused(type_name: str) -> None:
    with pytest.raises(FormatError, match=f"33 values does not divide into {type_name} blocks of 32"):
        codec_for(type_name).encode(np.zeros((2, 33), np.float32))


def test_the_types_that_can_be_written() -> None:
    assert {"F32", "F16", "BF16", "Q4_1", "Q5_0", "Q5_1", *TYPES} <= ENCODABLE


def test_importing_the_codec_does_not_import_numba() -> None:
    code = "import sys; import entrenar_core.codecs.registry; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

"""Q2_K ... Q6_K, IQ4_NL and IQ4_XS encoded: small errors, edge cases, and what is refused.

That the errors are no larger than llama.cpp's is shown in tests/oracle/test_k_encode_llama_cpp.py.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest
from gguf.constants import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.codecs.refusal import UnfitValueError
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError

AFFINE = ("Q2_K", "Q4_K", "Q5_K")
SYMMETRIC = ("Q3_K", "Q6_K", "IQ4_NL", "IQ4_XS")
TYPES = AFFINE + SYMMETRIC
LEVELS = {"Q2_K": 4, "Q3_K": 8, "Q4_K": 16, "Q5_K": 32, "Q6_K": 64, "IQ4_NL": 12, "IQ4_XS": 12}
LARGEST_STEP = {
    "Q2_K": 15 * 3,
    "Q3_K": 32 * 4,
    "Q4_K": 63 * 15,
    "Q5_K": 63 * 31,
    "Q6_K": 128 * 32,
    "IQ4_NL": 127,
    "IQ4_XS": 32 * 127,
}
"""The largest value of a block whose float16 step is 1; levels of IQ4 are wider at the ends than sixteen even ones."""


def gaussian(n_rows: int, row: int = 256, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n_rows, row)).astype(np.float32)


def decoded(type_name: str, values: np.ndarray, importance: np.ndarray | None = None) -> np.ndarray:
    codec = codec_for(type_name)
    return codec.decode(codec.encode(values, importance))


def error(type_name: str, values: np.ndarray, importance: np.ndarray | None = None) -> float:
    """Root of the mean squared error, relative to the values'."""
    lost = decoded(type_name, values, importance).astype(np.float64) - values
    return float(np.sqrt((lost**2).mean() / (values.astype(np.float64) ** 2).mean()))


@pytest.mark.parametrize("type_name", TYPES)
def test_gguf_py_decodes_to_the_same_values(type_name: str) -> None:
    packed = codec_for(type_name).encode(gaussian(9, 512))
    assert np.array_equal(codec_for(type_name).decode(packed), dequantize(packed, GGMLQuantizationType[type_name]))


@pytest.mark.parametrize(
    ("type_name", "least", "most"),
    [
        ("Q2_K", 0.25, 0.29),
        ("Q3_K", 0.13, 0.16),
        ("Q4_K", 0.065, 0.075),
        ("Q5_K", 0.033, 0.038),
        ("Q6_K", 0.017, 0.021),
        ("IQ4_NL", 0.065, 0.085),
        ("IQ4_XS", 0.065, 0.085),
    ],
)
def test_the_error_on_gaussian_values_is_that_of_its_bits(type_name: str, least: float, most: float) -> None:
    assert least < error(type_name, gaussian(24)) < most


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("exponent", [-12, -3, 8])
def test_powers_of_two_scale_codes_and_values_exactly(type_name: str, exponent: int) -> None:
    """Away from subnormal float16 steps."""
    values = gaussian(3) + np.float32(0.125)
    scaled = values * np.float32(2.0**exponent)
    if exponent < 0:  # a step of about 0.03 / 63 has to stay above 2^-14
        values, scaled = values * np.float32(2.0**14), scaled * np.float32(2.0**14)
    whole = decoded(type_name, values)
    assert np.array_equal(decoded(type_name, scaled), whole * np.float32(2.0**exponent))


@pytest.mark.parametrize("type_name", TYPES)
def test_a_block_of_zeros_is_exact(type_name: str) -> None:
    assert not decoded(type_name, np.zeros((3, 512), np.float32)).any()
    assert not decoded(type_name, -np.zeros((1, 256), np.float32)).any()


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("value", [1.0, -1.0, 0.25, -777.0])
def test_a_constant_block_is_kept_to_float16_precision(type_name: str, value: float) -> None:
    np.testing.assert_allclose(decoded(type_name, np.full((2, 256), value, np.float32)), value, rtol=1e-3)


@pytest.mark.parametrize("type_name", TYPES)
def test_steps_below_the_normal_float16_numbers_are_rounded_up(type_name: str) -> None:
    """So that the largest value is not cut off; a step is then up to 2^-24 too large, which codes make good for."""
    values = gaussian(16)
    assert error(type_name, values * np.float32(2e-4)) < 1.1 * error(type_name, values) + 0.02


@pytest.mark.parametrize("type_name", TYPES)
def test_parts_that_are_zero_stay_zero_beside_others(type_name: str) -> None:
    values = gaussian(2)
    values[:, 64:128] = 0.0
    assert not decoded(type_name, values)[:, 64:128].any()


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("place", [0, 100, 255])
@pytest.mark.parametrize("size", [50.0, -50.0])
def test_an_outlier_is_kept(type_name: str, place: int, size: float) -> None:
    values = gaussian(1)
    values[0, place] = size
    assert abs(decoded(type_name, values)[0, place] - size) < 50.0 / LEVELS[type_name]


@pytest.mark.parametrize("type_name", TYPES)
def test_values_below_every_step_become_zeros_and_no_numbers_are_lost(type_name: str) -> None:
    for size in (1e-45, 1e-40, 1e-30, 1e-10):
        assert not decoded(type_name, gaussian(2) * np.float32(size)).any()
    small = gaussian(4) * np.float32(1e-6)
    assert np.isfinite(decoded(type_name, small)).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_large_values_fit_nearly_up_to_the_largest_float16_step(type_name: str) -> None:
    values = np.abs(gaussian(2)) / np.float32(8)
    values[:, 3] = 1.0
    largest = np.float32(65504.0 * LARGEST_STEP[type_name] * 0.75)
    lost = np.abs(decoded(type_name, values * largest) / largest - values)
    assert lost.max() < 1.5 / LEVELS[type_name]


@pytest.mark.parametrize("type_name", TYPES)
def test_a_value_beyond_the_largest_step_is_refused_with_its_place(type_name: str) -> None:
    values = gaussian(3, 512)
    values[1, 300] = -70000.0 * LARGEST_STEP[type_name]
    with pytest.raises(UnfitValueError, match=rf"does not fit a block of {type_name} \(row 1, column 300\)"):
        codec_for(type_name).encode(values)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38, -2e19])
@pytest.mark.parametrize("column", [0, 256, 511])
def test_a_value_that_is_not_finite_or_huge_is_refused_with_its_place(
    type_name: str, value: float, column: int
) -> None:
    values = gaussian(3, 512)
    values[1, column] = value
    values[2, 3] = np.nan
    message = f"{value:g} does not fit a block of {type_name} (row 1, column {column})"
    with pytest.raises(UnfitValueError, match=re.escape(message)):
        codec_for(type_name).encode(values)


@pytest.mark.parametrize("type_name", TYPES)
def test_every_row_and_block_is_packed_by_itself(type_name: str) -> None:
    """An odd number of blocks too: parts of 32 are worked on two blocks at a time."""
    codec = codec_for(type_name)
    values, importance = gaussian(3, 768), np.linspace(0.1, 2.0, 768, dtype=np.float32)
    plain, weighted = codec.encode(values), codec.encode(values, importance)
    for n in range(3):
        assert np.array_equal(codec.encode(values[n : n + 1]), plain[n : n + 1])
        assert np.array_equal(codec.encode(values[n], importance), weighted[n])
    third = plain.shape[1] // 3
    assert np.array_equal(codec.encode(values[:, 256:512]), plain[:, third : 2 * third])


@pytest.mark.parametrize("type_name", TYPES)
def test_leading_axes_and_places_for_the_bytes(type_name: str) -> None:
    codec = codec_for(type_name)
    values = gaussian(6, 512).reshape(2, 3, 512)
    out = np.empty((2, 3, 512 // codec.block_size * codec.block_bytes), np.uint8)
    assert codec.encode(values, out=out) is out
    assert np.array_equal(out.reshape(6, -1), codec.encode(values.reshape(6, 512)))
    assert codec.encode(np.empty((0, codec.block_size), np.float32)).shape == (0, codec.block_bytes)


@pytest.mark.parametrize("type_name", TYPES)
def test_an_importance_lowers_the_weighted_error(type_name: str) -> None:
    values = gaussian(8, 512)
    importance = np.exp(2.0 * gaussian(1, 512, seed=1)[0])

    def weighted(packed_with: np.ndarray | None) -> float:
        lost = decoded(type_name, values, packed_with) - values
        return float((lost**2 * importance).sum())

    assert weighted(importance) < 0.9 * weighted(None)


@pytest.mark.parametrize("type_name", TYPES)
def test_the_size_of_an_importance_does_not_matter(type_name: str) -> None:
    codec, values = codec_for(type_name), gaussian(4)
    importance = np.abs(gaussian(1, seed=2)[0])
    plain = codec.encode(values, importance)
    for size in (2.0**-100, 2.0**60):
        assert np.array_equal(codec.encode(values, importance * np.float32(size)), plain)


@pytest.mark.parametrize("type_name", TYPES)
def test_columns_without_importance_leave_sound_blocks(type_name: str) -> None:
    values, importance = gaussian(4), np.zeros(256, np.float32)
    assert error(type_name, values, importance) < 2.0 / LEVELS[type_name]
    importance[:40] = 1.0
    assert np.isfinite(decoded(type_name, values, importance)).all()
    assert error(type_name, values[:, :256], importance) < 3.0 / LEVELS[type_name]


@pytest.mark.parametrize("type_name", TYPES)
def test_an_importance_that_does_not_belong_is_refused(type_name: str) -> None:
    with pytest.raises(TypeError, match="importance must be float32"):
        codec_for(type_name).encode(gaussian(2, 512), np.ones(256, np.float32))
    with pytest.raises(FormatError, match="negative or not finite"):
        codec_for(type_name).encode(gaussian(2), np.full(256, -1.0, np.float32))


@pytest.mark.integration
def test_plain_python_kernels_give_the_same_bytes() -> None:
    code = f"""
import sys
import numpy as np
from entrenar_core.codecs.registry import codec_for
rng = np.random.default_rng(0)
values = rng.standard_normal((1, 768)).astype(np.float32)
values[0, 300] = 40.0
values[0, 512:600] = 0.0
importance = np.abs(rng.standard_normal(768)).astype(np.float32)
for name in {TYPES}:
    for weights in (None, importance):
        sys.stdout.write(codec_for(name).encode(values, weights).tobytes().hex() + chr(10))
"""
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], check=True, env=os.environ | path | {"ENTRENAR_JIT": jit}, capture_output=True
        ).stdout
        for jit in ("0", "1")
    ]
    assert outputs[0].count(b"\n") == 2 * len(TYPES)
    assert outputs[0] == outputs[1]


@pytest.mark.property
@pytest.mark.parametrize("type_name", TYPES)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-8, 12), shift=st.floats(-3.0, 3.0))
def test_no_value_moves_far(type_name: str, seed: int, exponent: int, shift: float) -> None:
    """By less than a step of the widest part of its super-block."""
    values = (gaussian(2, seed=seed) + np.float32(shift)) * np.float32(2.0**exponent)
    spread = np.abs(values).max(axis=1, keepdims=True) * (2.0 if type_name in SYMMETRIC else 1.6)
    assert (np.abs(decoded(type_name, values) - values) <= 1.5 * spread / (LEVELS[type_name] - 1)).all()

"""Laws of what a type loses (ENT-026), for every type that can be written, as far as a law applies to it.

Bounds are derived from the formats (`error_bounds`): a code is off by half a step by rounding; Q4_0 and Q5_0 have a
code for -8 (-16) steps but none for +8 (+16), so that a value at that end is off by a whole step.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import ENCODABLE, codec_for
from tests.codecs.error_bounds import HALF_STEP, SLACK, symmetric_bound

ROW = 512
"""Two of the largest blocks."""

ENCODED = sorted(ENCODABLE)
BLOCK_TYPES = sorted(ENCODABLE - {"F32", "F16", "BF16"})
LEGACY = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
FAMILIES = (
    ("Q4_0", "Q5_0", "Q8_0", "F16", "F32"),
    ("Q4_1", "Q5_1", "Q8_0", "F16", "F32"),
    ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "BF16", "F32"),
    ("IQ4_XS", "Q5_K", "Q6_K"),
    ("IQ4_NL", "Q5_0", "Q8_0"),
)


def there_and_back(type_name: str, values: np.ndarray) -> np.ndarray:
    codec = codec_for(type_name)
    return codec.decode(codec.encode(values))


def gaussian(seed: int, rows: int = 4, size: float = 1.0) -> np.ndarray:
    return (size * np.random.default_rng(seed).standard_normal((rows, ROW))).astype(np.float32)


BOUNDS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": lambda blocks: 0.0 * blocks,
    "F16": lambda blocks: np.maximum(np.abs(blocks) * 2.0**-11, 2.0**-25),
    "BF16": lambda blocks: np.maximum(np.abs(blocks) * 2.0**-8, 2.0**-134),
    **HALF_STEP,
    "Q4_0": lambda blocks: symmetric_bound(blocks, 8, steps=1.0),
    "Q5_0": lambda blocks: symmetric_bound(blocks, 16, steps=1.0),
}
"""The largest error of each value of blocks float64 [N, block]. The searched types give up such a bound for a smaller
mean; what holds for them is `test_no_block_loses_more_than_zeros_would`."""


@pytest.mark.property
@pytest.mark.parametrize("type_name", sorted(BOUNDS))
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-30, 12), offset=st.floats(-4.0, 4.0))
def test_no_value_moves_by_more_than_its_format_allows(type_name: str, seed: int, exponent: int, offset: float) -> None:
    rng = np.random.default_rng(seed)
    shapes = [rng.standard_normal((4, 32)), rng.uniform(-1, 1, (4, 32)), rng.standard_cauchy((4, 32)).clip(-8, 8)]
    values = ((np.concatenate(shapes) + offset) * 2.0**exponent).astype(np.float32)
    error = np.abs(there_and_back(type_name, values).astype(np.float64) - values)
    assert (error <= BOUNDS[type_name](values.astype(np.float64)) * SLACK).all()


@pytest.mark.property
@pytest.mark.parametrize("type_name", ENCODED)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-6, 8))
def test_no_block_loses_more_than_zeros_would(type_name: str, seed: int, exponent: int) -> None:
    values = gaussian(seed, size=2.0**exponent)
    size = codec_for(type_name).block_size
    error = (there_and_back(type_name, values).astype(np.float64) - values).reshape(-1, size)
    assert ((error**2).sum(axis=1) <= (values.astype(np.float64).reshape(-1, size) ** 2).sum(axis=1)).all()


@pytest.mark.property
@pytest.mark.parametrize("type_name", LEGACY)
@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-8, 9), offset=st.floats(-64.0, 64.0))
def test_encoding_what_was_decoded_gives_the_same_bytes(
    type_name: str, seed: int, exponent: int, offset: float
) -> None:
    """Every encoded block has its extreme codes, and the scale is read off them exactly.

    It holds where no scale rounds to 0 and, for the types with a minimum, where that is not -0 and not a power of two
    beside which the range is tiny; see the exceptions below.
    """
    codec = codec_for(type_name)
    packed = codec.encode((gaussian(seed) + np.float32(offset)) * np.float32(2.0**exponent))
    assert np.array_equal(codec.encode(codec.decode(packed)), packed)


@pytest.mark.parametrize("type_name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_exception_a_scale_that_rounds_to_zero_keeps_its_codes_only_once(type_name: str) -> None:
    """The values are the same zeros, the bytes are not."""
    codec = codec_for(type_name)
    packed = codec.encode(np.linspace(-1e-8, 1e-8, 32, dtype=np.float32))
    again = codec.encode(codec.decode(packed))
    assert not np.array_equal(again, packed)
    assert np.array_equal(codec.decode(again), codec.decode(packed))


@pytest.mark.parametrize("type_name", ["Q4_1", "Q5_1"])
def test_exception_a_minimum_that_rounds_up_to_a_power_of_two_blurs_a_tiny_range(type_name: str) -> None:
    """d·code + m has one bit less above the power of two than the values had below: another scale is read off it."""
    codec = codec_for(type_name)
    values = (1023.9 + 1e-3 * np.random.default_rng(0).standard_normal((50, 32))).astype(np.float32)
    packed = codec.encode(values)
    assert not np.array_equal(codec.encode(codec.decode(packed)), packed)


@pytest.mark.parametrize("type_name", ["Q4_1", "Q5_1"])
def test_exception_a_minimum_of_negative_zero_becomes_zero(type_name: str) -> None:
    codec = codec_for(type_name)
    values = np.linspace(0.0, 1.0, 32, dtype=np.float32)
    values[0] = -0.0
    packed = codec.encode(values)
    again = codec.encode(codec.decode(packed))
    assert (packed[2:4].tolist(), again[2:4].tolist()) == ([0, 128], [0, 0])
    assert np.array_equal(np.delete(again, 3), np.delete(packed, 3))


@pytest.mark.property
@pytest.mark.parametrize("type_name", ENCODED)
@settings(max_examples=20)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-3, 5))
def test_a_power_of_two_goes_through_unchanged(type_name: str, seed: int, exponent: int) -> None:
    """Away from float16's subnormals (values of about 32, so that scales of scales are normal too)."""
    values, factor = gaussian(seed, size=32.0), np.float32(2.0**exponent)
    assert np.array_equal(there_and_back(type_name, values * factor), there_and_back(type_name, values) * factor)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_mean_error_falls_with_the_bits(family: tuple[str, ...]) -> None:
    values = gaussian(1, rows=12)
    members = [name for name in family if name in ENCODABLE]
    bits = [TYPE_BY_NAME[name].block_bytes * 8 / TYPE_BY_NAME[name].block_size for name in members]
    errors = [float(((there_and_back(name, values) - values) ** 2).mean()) for name in members]
    assert bits == sorted(set(bits))
    assert errors == sorted(set(errors), reverse=True)


def normal_density(x: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def normal_distribution(x: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.array([math.erf(value / math.sqrt(2)) for value in x]))


def symmetric_noise(levels: int, clipped: bool, block: int = 32) -> float:
    """Mean square error for N(0, 1): step²/12 with step = (largest magnitude)/levels, but none for the extreme itself.

    The largest magnitude M of `block` values has the distribution (2Φ(M) - 1)^block. Where the code of +levels is
    missing, another value between levels - 1/2 and levels steps on that side is off by (t - levels + 1)² instead of
    (levels - t)² steps², on average ½ more.
    """
    largest = np.linspace(1e-3, 8.0, 4000)
    inside = 2 * normal_distribution(largest) - 1
    density = np.gradient(inside**block, largest)
    beyond = normal_distribution(largest) - normal_distribution(largest * (levels - 0.5) / levels)
    squares = 1 / 12 + (0.5 * beyond / inside if clipped else 0.0)
    return float(np.trapezoid(density * (largest / levels) ** 2 * squares, largest) * (block - 1) / block)


def range_noise(levels: int, block: int = 32) -> float:
    """Mean square error for N(0, 1): step²/12 with step = range/levels, but none for the two extremes.

    Minimum a and maximum b have the density n(n-1)·φ(a)·φ(b)·(Φ(b) - Φ(a))^(n-2).
    """
    x = np.linspace(-7.0, 7.0, 1400)
    distribution, density = normal_distribution(x), normal_density(x)
    between = np.clip(distribution[None, :] - distribution[:, None], 0.0, None) ** (block - 2)
    joint = block * (block - 1) * density[:, None] * density[None, :] * between * (x[1] - x[0]) ** 2
    squared_range = float((joint * np.triu((x[None, :] - x[:, None]) ** 2)).sum())
    return squared_range / levels**2 / 12 * (block - 2) / block


THEORY: dict[str, Callable[[], float]] = {
    "Q4_0": lambda: symmetric_noise(8, clipped=True),
    "Q5_0": lambda: symmetric_noise(16, clipped=True),
    "Q8_0": lambda: symmetric_noise(127, clipped=False),
    "Q4_1": lambda: range_noise(15),
    "Q5_1": lambda: range_noise(31),
}


@pytest.mark.parametrize("type_name", sorted(THEORY))
def test_the_noise_on_gaussian_weights_is_that_of_a_uniform_quantizer(type_name: str) -> None:
    values = gaussian(2, rows=600)
    noise = float(((there_and_back(type_name, values).astype(np.float64) - values) ** 2).mean())
    decibels_off = 10 * math.log10(noise / float((values.astype(np.float64) ** 2).mean()) / THEORY[type_name]())
    assert abs(decibels_off) < 0.05


def test_searched_types_do_not_lose_more_than_plain_ones_of_as_many_bits() -> None:
    """A type with a searched scale beats the plain uniform quantizer whose codes have the same width."""
    values = gaussian(3, rows=12)

    def noise(type_name: str) -> float:
        return float(((there_and_back(type_name, values) - values) ** 2).mean())

    for searched, plain in (("Q4_K", "Q4_1"), ("Q5_K", "Q5_1"), ("IQ4_NL", "Q4_0"), ("IQ4_XS", "Q4_0")):
        assert noise(searched) < noise(plain)

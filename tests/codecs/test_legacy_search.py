"""Q4 and Q5 blocks with an importance: what is important loses less, and odd blocks are stored as well as plain ones.

That the weighted error is not above llama.cpp's is shown in tests/oracle/test_codecs_llama_cpp.py.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from tests.codecs.blocks import adversarial_blocks, largest_of, random_rows

# Plain kernels (ENTRENAR_JIT=0) warn of what compiled ones do silently; infinities and NaNs are meant to arise here.
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|divide by zero) encountered:RuntimeWarning")

TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1")
ROUNDING = 1.0 + 2.0**-13
"""float32 may take the other of two codes that are equally near: up to 128 steps from 0 it knows x/scale to 2^-16, and
(1/2 + 2^-16)² is 1/4 and 2^-14 of it. The encoder's own sums are off by less than 2^-19 of themselves."""


def weighted_error(type_name: str, values: np.ndarray, importance: np.ndarray, packed: np.ndarray) -> float:
    """The weighted mean square of what a block type loses, with the weights of the search."""
    squares = values.astype(np.float64) ** 2
    weights = importance * np.sqrt(squares.mean(axis=-1, keepdims=True) + squares)
    return float((weights * (codec_for(type_name).decode(packed) - values) ** 2).sum() / weights.sum())


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_weighted_error_falls_well_below_that_of_the_plain_encoder(type_name: str, offset: float) -> None:
    rng = np.random.default_rng(0)
    values = (0.02 * rng.standard_normal((40, 128)) + offset).astype(np.float32)
    importance = np.exp(1.5 * rng.standard_normal(128)).astype(np.float32)
    codec = codec_for(type_name)
    plain = weighted_error(type_name, values, importance, codec.encode(values))
    assert weighted_error(type_name, values, importance, codec.encode(values, importance)) < 0.75 * plain


@pytest.mark.property
@pytest.mark.parametrize("type_name", TYPES)
@given(seed=st.integers(0, 2**32 - 1), exponent=st.integers(-20, 12), offset=st.floats(-4.0, 4.0))
@example(seed=524288, exponent=0, offset=0.0)  # the searches of Q4_1 and Q5_1 pass by the plain line here,
@example(seed=4352, exponent=0, offset=0.0)  # and end at one that loses more
def test_no_block_loses_more_than_with_the_plain_encoder(
    type_name: str, seed: int, exponent: int, offset: float
) -> None:
    """In the measure of the search. It says nothing of the error weighted by the importance alone."""
    rng = np.random.default_rng(seed)
    values = ((rng.standard_normal((1, 32)) + offset) * 2.0**exponent).astype(np.float32)
    importance = rng.exponential(size=32).astype(np.float32)
    codec = codec_for(type_name)
    plain = weighted_error(type_name, values, importance, codec.encode(values))
    assert weighted_error(type_name, values, importance, codec.encode(values, importance)) <= ROUNDING * plain


@pytest.mark.parametrize("type_name", TYPES)
def test_values_on_the_grid_of_the_plain_encoder_stay_exact(type_name: str) -> None:
    codec, importance = codec_for(type_name), np.random.default_rng(1).exponential(size=512).astype(np.float32)
    values = codec.decode(codec.encode(np.random.default_rng(2).standard_normal((8, 512)).astype(np.float32)))
    assert np.array_equal(codec.decode(codec.encode(values, importance)), values)


@pytest.mark.parametrize("type_name", TYPES)
def test_only_the_ratios_of_the_importance_count(type_name: str) -> None:
    values, importance = random_rows(8, 64), np.linspace(0.5, 2.0, 64, dtype=np.float32)
    codec = codec_for(type_name)
    for factor in (2.0**-100, 2.0**100):
        scaled = importance * np.float32(factor)
        assert np.array_equal(codec.encode(values, scaled), codec.encode(values, importance))


@pytest.mark.parametrize("type_name", TYPES)
def test_adversarial_blocks_stay_close_to_plain_ones(type_name: str) -> None:
    blocks, codec = adversarial_blocks(largest_of(type_name)), codec_for(type_name)
    for importance in (np.ones(32, np.float32), np.zeros(32, np.float32), np.eye(32, dtype=np.float32)[5]):
        decoded = codec.decode(codec.encode(blocks, importance))
        span = blocks.max(axis=1, keepdims=True).astype(np.float64) - blocks.min(axis=1, keepdims=True)
        assert np.isfinite(decoded).all()
        step = np.maximum(span, np.abs(blocks).max(axis=1, keepdims=True)) / 7
        assert (np.abs(decoded.astype(np.float64) - blocks) <= 4 * step + 2.0**-24 * 16).all()


@pytest.mark.parametrize("type_name", TYPES)
def test_zeros_and_equal_values_are_exact(type_name: str) -> None:
    codec, importance = codec_for(type_name), np.ones(64, np.float32)
    assert not codec.decode(codec.encode(np.zeros((2, 64), np.float32), importance)).any()
    for value in (0.5, -0.25):
        equal = np.full((2, 64), value, np.float32)
        np.testing.assert_allclose(codec.decode(codec.encode(equal, importance)), equal, rtol=1e-3)


@pytest.mark.parametrize("type_name", TYPES)
def test_an_importance_of_nothing_counts_all_alike(type_name: str) -> None:
    """Whether the importance of a whole block is 0 or 1: only the ratios inside a block matter."""
    values, codec = random_rows(1, 64), codec_for(type_name)
    values[0, :32] = np.sign(values[0, :32])  # equal magnitudes have equal weights
    importance = np.ones(64, np.float32)
    importance[:32] = 0.0
    decoded = codec.decode(codec.encode(values, importance))
    np.testing.assert_allclose(decoded, codec.decode(codec.encode(values, np.ones(64, np.float32))), rtol=2e-3)


@pytest.mark.parametrize("type_name", TYPES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e7])
def test_what_does_not_fit_is_refused_with_its_place(type_name: str, value: float) -> None:
    rows = random_rows(3, 64)
    rows[1, 40] = value
    with pytest.raises(FormatError, match=rf"does not fit a block of {type_name} \(row 1, column 40\)"):
        codec_for(type_name).encode(rows, np.ones(64, np.float32))


@pytest.mark.parametrize("type_name", TYPES)
def test_the_largest_values_are_stored(type_name: str) -> None:
    """A searched scale beyond float16 gives way to the plain one."""
    block = np.full(32, -largest_of(type_name), np.float32)
    block[3:] = np.linspace(0, 1, 29) * largest_of(type_name)
    codec = codec_for(type_name)
    assert np.isfinite(codec.decode(codec.encode(block, np.ones(32, np.float32)))).all()


def test_q8_0_does_not_look_at_the_importance() -> None:
    values = random_rows(4, 64)
    assert np.array_equal(codec_for("Q8_0").encode(values, np.full(64, np.nan)), codec_for("Q8_0").encode(values))


@pytest.mark.parametrize("type_name", TYPES)
def test_a_wrong_importance_is_refused(type_name: str) -> None:
    values, codec = random_rows(4, 64), codec_for(type_name)
    with pytest.raises(TypeError, match=r"importance must be float32 \[64\]"):
        codec.encode(values, np.ones(32, np.float32))
    with pytest.raises(FormatError, match="negative or not finite"):
        codec.encode(values, np.full(64, -1.0, np.float32))

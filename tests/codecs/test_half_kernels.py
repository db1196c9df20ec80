"""float16 without the processor's help: the same bits as with it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.codecs import float_arrays
from entrenar_core.codecs.half_kernels import portable_half, portable_value

# Plain kernels (ENTRENAR_JIT=0) warn of what compiled ones do silently; infinities and NaNs are meant to arise here.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")

QUIET = 0x0200


def numpy_half(value: np.float32) -> int:
    with np.errstate(all="ignore"):
        half = int(value.astype(np.float16).view(np.uint16))
    return half | QUIET if np.isnan(value) else half


@pytest.mark.property
@given(pattern=st.integers(0, 2**32 - 1))
def test_any_float32_becomes_the_half_that_numpy_makes_of_it(pattern: int) -> None:
    value = np.uint32(pattern).view(np.float32)
    assert portable_half(value) == numpy_half(value)


@pytest.mark.parametrize("exponent", range(-26, 17))
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_borders_between_halves(exponent: int, offset: int) -> None:
    for border in (2.0**exponent, 2.0**exponent * (1 + 2.0**-11)):
        value = np.uint32(int(np.float32(border).view(np.uint32)) + offset).view(np.float32)
        assert portable_half(value) == numpy_half(value)


def test_every_half_becomes_the_float32_that_numpy_makes_of_it() -> None:
    halves = np.arange(0, 1 << 16, 13, dtype=np.uint16)
    theirs = halves.view(np.float16).astype(np.float32)
    ours = np.array([portable_value(np.int32(half)) for half in halves], np.float32)
    number = ~np.isnan(theirs)
    assert np.array_equal(ours[number].view(np.uint32), theirs[number].view(np.uint32))
    assert np.isnan(ours[~number]).all()


def test_the_compiled_kernels_make_the_same_halves() -> None:
    from entrenar_core.codecs import float_kernels

    values = np.random.default_rng(1).integers(0, 2**32, 500, np.uint32).view(np.float32)
    halves, back = np.empty(500, np.uint16), np.empty(500, np.float32)
    float_kernels.encode_f16(values, halves)
    assert halves.tolist() == [portable_half(value) for value in values]
    float_kernels.decode_f16(halves, back)
    there = np.array([portable_value(np.int32(half)) for half in halves], np.float32)
    assert np.array_equal(back.view(np.uint32), there.view(np.uint32))


@pytest.mark.parametrize("name", ["f16", "bf16"])
def test_arrays_and_kernels_do_the_same(name: str) -> None:
    from entrenar_core.codecs import float_kernels

    bits = np.random.default_rng(0).integers(0, 2**32, 3000, np.uint32)
    values = bits.view(np.float32)
    ours, theirs = np.empty(3000, np.uint16), np.empty(3000, np.uint16)
    with np.errstate(all="ignore"):
        lost = getattr(float_kernels, f"encode_{name}")(values, ours)
    assert getattr(float_arrays, f"encode_{name}")(values, theirs) == lost
    assert np.array_equal(ours, theirs)
    here, there = np.empty(3000, np.float32), np.empty(3000, np.float32)
    getattr(float_kernels, f"decode_{name}")(ours, here)
    getattr(float_arrays, f"decode_{name}")(ours, there)
    number = ~np.isnan(there)
    assert np.array_equal(here[number], there[number])

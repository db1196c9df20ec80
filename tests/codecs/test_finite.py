"""Infinities and NaNs are found wherever they stand, and nothing else is taken for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.codecs.finite import all_finite, all_finite_packed, non_finite_value
from entrenar_core.codecs.registry import codec_for

WORDS = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32}


@pytest.mark.parametrize("type_name", ["F16", "BF16"])
def test_every_half_is_judged_as_its_value_is(type_name: str) -> None:
    raw = np.arange(1 << 16, dtype=np.uint16).view(np.uint8).reshape(-1, 2)
    finite = np.isfinite(codec_for(type_name).decode(raw))[:, 0]
    assert [all_finite_packed(one, type_name) for one in raw] == finite.tolist()


@given(words=st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_words_of_32_bits_are_judged_as_their_values_are(words: list[int]) -> None:
    values = np.array(words, np.uint32).view(np.float32)
    assert all_finite(values) == np.isfinite(values).all()
    assert all_finite_packed(values.view(np.uint8), "F32") == np.isfinite(values).all()


@pytest.mark.parametrize("bad", [np.nan, -np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [0, 7, 4095])
def test_one_bad_value_among_many_is_found(bad: float, place: int) -> None:
    values = np.linspace(-3e38, 3e38, 4096, dtype=np.float32).reshape(64, 64)
    assert all_finite(values)
    values.reshape(-1)[place] = bad
    assert not all_finite(values)


def test_the_error_names_the_first_place_in_the_tensor() -> None:
    values = np.zeros((3, 4), np.float32)
    values[1, 2], values[2, 0] = -np.inf, np.nan
    error = non_finite_value(values, range(100, 103), "m.gguf: tensor w")
    assert error.message == "the value in row 101, column 2 is -inf"
    assert error.where == "m.gguf: tensor w"

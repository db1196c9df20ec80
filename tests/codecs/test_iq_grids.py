"""The tables of the IQ types: grids from gguf-py, signs of eight values in a word."""

from __future__ import annotations

import numpy as np
import pytest
from gguf import quants

from entrenar_core.codecs.iq_grids import even_sign_masks, grid_words, shift_words, sign_masks
from entrenar_core.errors import FormatError


@pytest.mark.parametrize(
    ("type_name", "rows", "width"),
    [("IQ1_S", 2048, 8), ("IQ2_XXS", 256, 8), ("IQ2_XS", 512, 8), ("IQ2_S", 1024, 8), ("IQ3_XXS", 256, 4)],
)
def test_a_word_of_a_grid_holds_its_row(type_name: str, rows: int, width: int) -> None:
    words = grid_words(type_name)
    assert words.shape == (rows,)
    assert words.itemsize == width
    assert np.array_equal(words.view(np.int8).reshape(rows, width), getattr(quants, type_name).grid[0, 0])


def test_a_grid_may_be_kept_several_times_larger() -> None:
    assert np.array_equal(grid_words("IQ1_S", 8).view(np.int8), 8 * grid_words("IQ1_S").view(np.int8))


def test_the_grid_that_a_type_has_not_is_an_error_that_says_so() -> None:
    with pytest.raises(FormatError, match="installed gguf package has no grid for IQ9_NEW"):
        grid_words("IQ9_NEW")
    with pytest.raises(FormatError, match="has no grid for Q8_0"):
        grid_words("Q8_0")


def test_a_set_bit_is_a_minus_in_the_place_of_its_value() -> None:
    signs = sign_masks().view(np.int8).reshape(256, 8)
    assert signs[0b00000101].tolist() == [-1, 0, -1, 0, 0, 0, 0, 0]
    assert signs[0b10000000].tolist() == [0, 0, 0, 0, 0, 0, 0, -1]


def test_the_eighth_sign_makes_their_number_even_as_in_gguf_py() -> None:
    signs = even_sign_masks().view(np.int8).reshape(128, 8)
    assert (signs.sum(axis=1) % 2 == 0).all()
    assert np.array_equal(even_sign_masks(), sign_masks()[np.frombuffer(quants.IQ2_XXS.ksigns, np.uint8)])


def test_shifts_are_plus_one_and_minus_one() -> None:
    assert shift_words().view(np.int8).tolist() == [1] * 8 + [-1] * 8

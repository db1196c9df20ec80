"""A packed matrix: its shape, and its values as a whole and in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.errors import FormatError
from tests.codecs.blocks import random_rows


@pytest.fixture
def matrix() -> PackedMatrix:
    return PackedMatrix.encode(random_rows(6, 128), "Q4_0")


def test_a_matrix_has_the_shape_of_its_values_and_the_size_of_its_blocks(matrix: PackedMatrix) -> None:
    assert matrix.shape == (6, 128)
    assert matrix.n_bytes == 6 * 4 * 18
    assert matrix.values().shape == (6, 128)


def test_rows_and_blocks_are_cut_out_of_the_whole(matrix: PackedMatrix) -> None:
    whole = matrix.values()
    assert np.array_equal(matrix.values(slice(2, 5)), whole[2:5])
    assert np.array_equal(matrix.values(blocks=slice(1, 3)), whole[:, 32:96])
    assert np.array_equal(matrix.values(slice(4, 6), slice(3, 4)), whole[4:, 96:])


def test_values_go_into_the_array_that_is_given(matrix: PackedMatrix) -> None:
    out = np.empty((6, 64), np.float32)
    assert matrix.values(blocks=slice(0, 2), out=out) is out
    assert np.array_equal(out, matrix.values()[:, :64])


def test_equal_means_the_same_blocks_of_the_same_type(matrix: PackedMatrix) -> None:
    other = matrix.blocks.copy()
    assert matrix.equals(PackedMatrix(other, "Q4_0"))
    assert not matrix.equals(PackedMatrix(other, "IQ4_NL"))
    other[0, 5] ^= 1
    assert not matrix.equals(PackedMatrix(other, "Q4_0"))


def test_bytes_that_are_no_matrix_of_whole_blocks_are_refused() -> None:
    with pytest.raises(FormatError, match="not a whole number of Q8_0 blocks"):
        PackedMatrix(np.zeros((2, 33), np.uint8), "Q8_0")
    with pytest.raises(ValueError, match="not \\[out, row_bytes\\]"):
        PackedMatrix(np.zeros(34, np.uint8), "Q8_0")

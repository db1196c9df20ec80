"""What rounding costs: the sums, and what is made of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entrenar_core.codecs.base import CHUNK_VALUES
from entrenar_core.quant.rounding import ErrorSums, TensorError, added_up, sqnr_db


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_sums_are_those_of_the_formulas() -> None:
    values, start = drawn(7, 33), drawn(7, 33, seed=1)
    decoded = values + np.float32(0.01) * drawn(7, 33, seed=2)
    sums = ErrorSums.of(values, decoded, start)
    exact = [each.astype(np.float64) for each in (values, decoded - values, values - start)]
    assert sums.n_values == 231
    found = [sums.squares, sums.error_squares, sums.change_squares]
    np.testing.assert_allclose(found, [np.square(each).sum() for each in exact], rtol=1e-12)
    assert sums.largest == np.abs(decoded - values).max()


def test_values_longer_than_a_chunk_are_all_counted() -> None:
    values = drawn(3 * CHUNK_VALUES + 5)
    sums = ErrorSums.of(values, values + 1, values - 2)
    assert sums.n_values == values.size
    assert sums.error_squares == pytest.approx(values.size, rel=1e-5)
    assert sums.change_squares == pytest.approx(4 * values.size, rel=1e-5)


def test_without_a_start_there_is_no_change() -> None:
    sums = ErrorSums.of(drawn(4, 4), drawn(4, 4) * 2)
    assert sums.change_squares == 0.0
    assert TensorError.of("w", "Q4_0", sums, has_start=False).change_rms is None
    assert TensorError.of("w", "Q4_0", sums, has_start=False).change_share is None


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    values, decoded, start = (drawn(6, 32, seed=seed) for seed in range(3))
    parts = [ErrorSums.of(values[at], decoded[at], start[at]) for at in (slice(0, 2), slice(2, 6))]
    whole, total = ErrorSums.of(values, decoded, start), added_up(parts)
    assert (total.n_values, total.largest) == (whole.n_values, whole.largest)
    assert total.error_squares == pytest.approx(whole.error_squares, rel=1e-12)
    assert added_up([]) == ErrorSums()


def test_an_error_says_how_large_it_is_beside_values_and_change() -> None:
    sums = ErrorSums(n_values=4, squares=400.0, error_squares=4.0, change_squares=1.0, largest=1.5)
    error = TensorError.of("w", "Q4_0", sums, has_start=True)
    assert (error.rmse, error.max_error, error.sqnr_db, error.change_rms) == (1.0, 1.5, 20.0, 0.5)
    assert error.change_share == 2.0


def test_a_tensor_that_did_not_change_has_no_share() -> None:
    sums = ErrorSums(n_values=4, squares=4.0, error_squares=1.0)
    assert TensorError.of("w", "Q4_0", sums, has_start=True).change_share is None


def test_decibels_need_a_signal_and_noise() -> None:
    assert sqnr_db(1.0, 0.0) is None
    assert sqnr_db(0.0, 0.0) is None
    assert sqnr_db(0.0, 1.0) is None
    assert sqnr_db(2.0, 1.0) == pytest.approx(10 * math.log10(2))

"""Figures of an error: of values that are known, weighed or not, beside what training changed."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entrenar_core.quant.error_sums import ErrorSums, added_up, measure

VALUES = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]], np.float32)
ROUNDED = np.array([[1.5, -2.0, 3.25], [0.0, 3.0, -1.0]], np.float32)
IMPORTANCE = np.array([4.0, 0.5, 2.0], np.float32)


def drawn(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def test_errors_are_summed_over_all_values() -> None:
    found = measure(VALUES, ROUNDED, None)
    assert (found.count, found.squared, found.power, found.largest) == (6, 0.25 + 0.0625 + 1.0, 31.0, 1.0)
    assert found.rmse == math.sqrt(1.3125 / 6)
    assert found.sqnr == pytest.approx(10 * math.log10(31.0 / 1.3125))
    assert found.weighted_rmse is None


def test_the_largest_error_has_no_sign() -> None:
    assert measure(ROUNDED, VALUES, None).largest == measure(VALUES, ROUNDED, None).largest == 1.0


def test_columns_count_by_their_importance() -> None:
    found = measure(VALUES, ROUNDED, IMPORTANCE)
    assert (found.weighted, found.weight) == (4.0 * 0.25 + 0.5 * 1.0 + 2.0 * 0.0625, 2 * 6.5)
    assert found.weighted_rmse == math.sqrt(1.625 / 13)
    assert measure(VALUES, ROUNDED, None) == ErrorSums(found.count, found.squared, found.power, found.largest)


def test_equal_importance_changes_nothing() -> None:
    found = measure(VALUES, ROUNDED, np.full(3, 7.0, np.float32))
    assert found.weighted_rmse == pytest.approx(found.rmse, rel=1e-12)


def test_sums_of_pieces_are_those_of_the_whole() -> None:
    parts = [measure(VALUES[row : row + 1], ROUNDED[row : row + 1], IMPORTANCE) for row in (0, 1)]
    whole = measure(VALUES, ROUNDED, IMPORTANCE)
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    assert (parts[0] + parts[1]).largest == 1.0


def test_what_is_exact_has_no_noise_and_zeros_have_no_signal() -> None:
    assert measure(VALUES, VALUES, None).sqnr is None
    assert measure(VALUES, VALUES, None).rmse == 0.0
    zeros = measure(np.zeros_like(VALUES), ROUNDED, None)
    assert zeros.sqnr is None
    assert zeros.rmse > 0
    assert ErrorSums().rmse == 0.0


def test_sums_are_those_of_the_formulas() -> None:
    values, start = drawn(7, 33), drawn(7, 33, seed=1)
    decoded = values + np.float32(0.01) * drawn(7, 33, seed=2)
    sums = measure(values, decoded, start=start)
    exact = [each.astype(np.float64) for each in (values, decoded - values, values - start)]
    assert sums.count == 231
    found = [sums.power, sums.squared, sums.changed]
    np.testing.assert_allclose(found, [np.square(each).sum() for each in exact], rtol=1e-12)
    assert sums.largest == np.abs(decoded - values).max()


def test_without_a_start_there_is_no_change() -> None:
    assert measure(drawn(4, 4), drawn(4, 4) * 2).changed == 0.0
    assert measure(drawn(4, 4), drawn(4, 4) * 2).change_rms == 0.0


def test_sums_of_parts_add_up_to_those_of_the_whole() -> None:
    values, decoded, start = (drawn(6, 32, seed=seed) for seed in range(3))
    parts = [measure(values[at], decoded[at], start=start[at]) for at in (slice(0, 2), slice(2, 6))]
    whole, total = measure(values, decoded, start=start), added_up(parts)
    assert (total.count, total.largest) == (whole.count, whole.largest)
    assert total.squared == pytest.approx(whole.squared, rel=1e-12)
    assert added_up([]) == ErrorSums()

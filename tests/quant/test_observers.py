"""What each method keeps of the inputs of a layer, against the same by NumPy over all rows at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.config.quantize import Calibration
from entrenar_core.quant.observer_kernels import N_BINS, count_magnitudes, upper_edges
from entrenar_core.quant.observers import (
    ColumnStatistic,
    Extremes,
    MagnitudePercentile,
    MeanSquare,
    MovingMaximum,
    statistic_of,
)

COLUMNS = 12


def inputs_of(seed: int, n_rows: int = 60) -> np.ndarray:
    """Columns of very different sizes: a silent one, tiny and huge ones, one-sided ones."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((n_rows, COLUMNS)) * np.exp2(rng.integers(-12, 9, COLUMNS))
    x[:, 0] = 0
    x[:, 1] = np.abs(x[:, 1])
    x[:, 2] = -np.abs(x[:, 2]) * 1e-9
    x[:, 3] = rng.choice([-6e4, 6e4], n_rows)
    return x.astype(np.float32)


def seen(statistic: ColumnStatistic, x: np.ndarray, sizes: tuple[int, ...] = (17, 1, 42)) -> ColumnStatistic:
    for part in np.split(x, np.cumsum(sizes)[:-1]):
        statistic.add(part)
    return statistic


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1))
def test_imatrix_is_the_mean_square(seed: int) -> None:
    x = inputs_of(seed)
    expected = np.square(x.astype(np.float64)).mean(axis=0)
    assert np.allclose(seen(MeanSquare(COLUMNS), x).importance(), expected, rtol=1e-6, atol=0)


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1))
def test_minmax_is_the_square_of_the_largest_magnitude(seed: int) -> None:
    x = inputs_of(seed)
    statistic = Extremes(COLUMNS)
    seen(statistic, x)
    assert np.array_equal(statistic.low, x.min(axis=0))
    assert np.array_equal(statistic.high, x.max(axis=0))
    assert np.allclose(statistic.importance(), np.square(np.abs(x.astype(np.float64)).max(axis=0)), rtol=1e-6, atol=0)


def test_what_is_kept_of_known_inputs() -> None:
    x = np.array([[1, -2, 0], [3, 0.5, 0], [-1, 4, 0], [2, -8, 0]], np.float32)
    squares = seen(MeanSquare(3), x, (1, 3))
    assert squares.importance().tolist() == [15 / 4, 84.25 / 4, 0]
    extremes = Extremes(3)
    seen(extremes, x, (1, 3))
    assert (extremes.low.tolist(), extremes.high.tolist()) == ([-1, -8, 0], [3, 4, 0])
    assert extremes.importance().tolist() == [9, 64, 0]
    assert MeanSquare(2).importance().tolist() == [0, 0]
    assert MovingMaximum(2, 0.5).importance().tolist() == [0, 0]


@pytest.mark.parametrize(("percentile", "rank"), [(25.0, 0), (50.0, 1), (51.0, 2), (100.0, 3)])
def test_a_percentile_is_the_edge_above_it(percentile: float, rank: int) -> None:
    x = np.array([[4.1], [-1.1], [2.1], [-8.1]], np.float32)
    statistic = MagnitudePercentile(1, percentile)
    seen(statistic, x, (2, 2))
    edges = [1.125, 2.125, 4.25, 8.1]  # sixteen bins for each factor of two; none above the largest
    assert statistic.percentiles().tolist() == pytest.approx([edges[rank]])
    assert statistic.importance().tolist() == pytest.approx([edges[rank] ** 2])


def test_a_moving_average_begins_with_the_first_row_and_forgets_it() -> None:
    x = np.array([[1, -4], [3, 0], [-2, 0.5]], np.float32)
    statistic = MovingMaximum(2, decay=0.75)
    seen(statistic, x, (1, 1, 1))
    first = 0.75 * np.array([1, 4]) + 0.25 * np.array([3, 0])
    expected = 0.75 * first + 0.25 * np.array([2, 0.5])
    assert statistic.importance() == pytest.approx(np.square(expected))


def test_without_a_past_the_last_row_counts() -> None:
    statistic = MovingMaximum(2, decay=0.0)
    seen(statistic, np.array([[9, 9], [2, -3]], np.float32), (1, 1))
    assert statistic.importance() == pytest.approx([4, 9])


def test_a_row_of_many_inputs_gives_its_largest() -> None:
    statistic = MovingMaximum(1, decay=0.5)
    seen(statistic, np.array([[1], [-5], [2]], np.float32), (2, 1))
    assert statistic.importance() == pytest.approx([3.5**2])


@pytest.mark.property
@given(seed=st.integers(0, 2**32 - 1), percentile=st.floats(50.1, 100))
def test_a_percentile_is_at_most_a_sixteenth_too_high(seed: int, percentile: float) -> None:
    x = inputs_of(seed)
    statistic = MagnitudePercentile(COLUMNS, percentile)
    seen(statistic, x)
    exact = np.sort(np.abs(x), axis=0)[math.ceil(percentile / 100 * len(x)) - 1]
    found = statistic.percentiles()
    tiny, largest = exact < 2.0**-20, np.abs(x).max(axis=0)
    assert (found >= exact).all()
    assert (found <= largest).all()
    huge = exact >= 2.0**12
    assert (found[~tiny & ~huge] <= exact[~tiny & ~huge] * (1 + 1 / 16)).all()
    assert (found[tiny] <= 2.0**-20).all()
    assert np.array_equal(statistic.importance(), np.square(found.astype(np.float64)).astype(np.float32))


def test_the_hundredth_percentile_is_the_largest() -> None:
    x = inputs_of(3)
    statistic = MagnitudePercentile(COLUMNS, 100.0)
    seen(statistic, x)
    assert np.array_equal(statistic.percentiles(), np.abs(x).max(axis=0))


def test_bins_hold_what_their_edges_say() -> None:
    edges = upper_edges()
    assert edges[0] == 2.0**-20
    assert edges[-2] == 2.0**12
    inside = np.nextafter(edges[1:-1], np.float32(0))
    values = np.concatenate([edges[:-1], inside, -inside])[:, None]
    counts = np.zeros((1, N_BINS), np.uint32)
    count_magnitudes(values.view(np.int32), counts)
    expected = np.ones(N_BINS, np.uint32) * 3
    expected[0], expected[-1] = 0, 1
    assert np.array_equal(counts[0], expected)


@pytest.mark.parametrize("method", ["imatrix", "minmax", "moving_average", "percentile"])
def test_how_rows_are_split_matters_to_the_moving_average_alone(method: str) -> None:
    x = inputs_of(5)
    calibration = Calibration.model_validate({"data": "x", "method": method})
    found = [
        seen(statistic_of(calibration, COLUMNS), x, sizes).importance() for sizes in ((60,), (20, 20, 20), (1, 58, 1))
    ]
    same = all(np.allclose(one, found[0], rtol=1e-6, atol=0) for one in found[1:])
    assert same == (method != "moving_average")


def test_settings_reach_the_statistics() -> None:
    average = statistic_of(Calibration(data="x", method="moving_average", decay=0.25), 3)
    percentile = statistic_of(Calibration(data="x", method="percentile", percentile=75.0), 3)
    assert isinstance(average, MovingMaximum)
    assert average.decay == 0.25
    assert isinstance(percentile, MagnitudePercentile)
    assert percentile.percentile == 75.0

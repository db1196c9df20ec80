"""The k largest of a row and the mass of the rest, against a stable sort in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from entrenar_core.data.teacher_shard import TopTokens
from entrenar_core.distill.top_k import keep_top_k
from entrenar_core.distill.top_k_kernels import kth_largest
from entrenar_core.threads import Threads

ONE = Threads(1)


def sorted_top_k(rows: np.ndarray, k: int) -> TopTokens:
    """The same by sorting: of equal values the first ones."""
    ids = np.sort(np.argsort(-rows, axis=1, kind="stable")[:, :k], axis=1)
    rest = rows.astype(np.float64)
    np.put_along_axis(rest, ids, -np.inf, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.exp(rest).sum(axis=1))
    return TopTokens(ids, np.take_along_axis(rows, ids, axis=1), tail.astype(np.float32))


def assert_kept(rows: np.ndarray, k: int, threads: Threads = ONE) -> None:
    found, expected = keep_top_k(rows.copy(), k, threads), sorted_top_k(rows, k)
    assert np.array_equal(found.ids, expected.ids)
    assert np.array_equal(found.values, expected.values)
    np.testing.assert_allclose(found.log_tail, expected.log_tail, rtol=2e-6, atol=2e-6)


values = st.one_of(st.sampled_from([-8.0, -2.5, -1.0, 0.0, 3.0]), st.floats(-40, 20, width=32).map(lambda x: x + 0.0))
rows_of_a_few = st.integers(1, 90).flatmap(lambda n: arrays(np.float32, (2, n), elements=values))


@pytest.mark.property
@given(rows_of_a_few, st.floats(0, 1))
def test_the_same_tokens_and_the_same_rest_as_by_sorting(rows: np.ndarray, share: float) -> None:
    assert_kept(rows, 1 + round(share * (rows.shape[1] - 1)))


@pytest.mark.parametrize(("n", "k"), [(2000, 64), (2048, 1), (2049, 100), (3000, 3000), (33, 2), (1, 1)])
def test_long_rows_with_and_without_equal_values(rng: np.random.Generator, n: int, k: int) -> None:
    rows = rng.normal(0, 3, (6, n)).astype(np.float32)
    rows[3:] = np.round(rows[3:]) + np.float32(0)
    assert_kept(rows, k)


@pytest.mark.parametrize("order", [1, -1])
def test_sorted_rows(order: int) -> None:
    assert_kept(np.linspace(-9, 0, 1000, dtype=np.float32)[None, ::order], 10)


def test_of_equal_values_the_first_are_kept() -> None:
    found = keep_top_k(np.zeros((1, 500), np.float32), 4, ONE)
    assert found.ids.tolist() == [[0, 1, 2, 3]]
    assert found.log_tail[0] == pytest.approx(np.log(496))


def test_nothing_is_left_when_all_are_kept() -> None:
    rows = np.array([[3, 1, 2]], np.float32)
    found = keep_top_k(rows.copy(), 3, ONE)
    assert found.ids.tolist() == [[0, 1, 2]]
    assert np.array_equal(found.values, rows)
    assert np.isneginf(found.log_tail).all()


def test_a_small_rest_beside_a_large_value_is_not_lost() -> None:
    found = keep_top_k(np.array([[0.0, -80.0, -80.0]], np.float32), 1, ONE)
    assert found.log_tail[0] == pytest.approx(-80 + np.log(2), rel=1e-6)


def test_the_number_of_threads_does_not_matter(rng: np.random.Generator) -> None:
    threads = Threads(3)
    assert_kept(rng.normal(0, 3, (7, 700)).astype(np.float32), 20, threads)
    threads.close()


@pytest.mark.parametrize("at", [0, 77, 99])
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000, 0x7F800000], ids=["nan", "-nan", "inf"])
def test_what_is_not_finite_does_not_disappear(rng: np.random.Generator, at: int, bits: int) -> None:
    rows = rng.normal(0, 1, (1, 100)).astype(np.float32)
    rows.view(np.uint32)[0, at] = bits
    found = keep_top_k(rows, 3, ONE)
    assert not (np.isfinite(found.values).all() and found.log_tail[0] < np.inf)


@pytest.mark.property
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.data())
def test_the_kth_largest_number(numbers: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(numbers)))
    assert kth_largest(np.array(numbers, np.int32), k) == sorted(numbers, reverse=True)[k - 1]

"""Losses of the CUDA backend: what is out of range shows as NaN in its own row, and nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind
from tests.autograd.distillation_cases import KINDS, log_softmax, top_k
from tests.backend.agreement import TRUTH, assert_close, on
from tests.cuda_host import host_runtime
from tests.cuda_host.device_array import waits

pytestmark = pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)

ROWS, VOCAB, N = 3, 11, 9


@pytest.fixture
def backend() -> Iterator[Any]:
    made = CudaBackend(host_runtime.HostRuntime(), "float32")
    yield made
    made.close()


@pytest.fixture
def logits(rng: np.random.Generator) -> np.ndarray:
    return rng.normal(size=(ROWS, VOCAB))


@pytest.fixture
def teacher(rng: np.random.Generator) -> np.ndarray:
    return log_softmax(rng.normal(size=(ROWS, N)))


def nan_rows(backend: Any, values: Any) -> list[int]:
    return np.flatnonzero(np.isnan(backend.to_host(values))).tolist()


@pytest.mark.parametrize("bad", [-1, VOCAB, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_a_target_out_of_range_makes_its_own_loss_nan(
    backend: Any, logits: np.ndarray, teacher: np.ndarray, bad: int, scale: float | None
) -> None:
    targets = np.array([0, bad, VOCAB - 1], np.int32)
    rest = (on(backend, targets), None, DistillationParams(alpha=0.5), scale)
    by_column = backend.distillation(on(backend, logits), on(backend, teacher), *rest)
    known = [on(backend, each) for each in top_k(teacher, 2)]
    by_ids = backend.distillation_top_k(on(backend, logits), *known, N, *rest)
    for divergences, losses in (by_column, by_ids):
        assert nan_rows(backend, losses) == [1]
        assert nan_rows(backend, divergences) == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [-1, N, 2**31 - 1])
def test_a_known_token_out_of_range_makes_its_own_divergence_nan(
    backend: Any, logits: np.ndarray, teacher: np.ndarray, kind: DivergenceKind, bad: int
) -> None:
    for k in (2, N):
        ids, values, tail = top_k(teacher, k)
        ids[1, 0] = bad
        known = [on(backend, each) for each in (ids, values, tail)]
        there = on(backend, logits)
        divergences, _ = backend.distillation_top_k(there, *known, N, None, None, DistillationParams(kind), None)
        assert nan_rows(backend, divergences) == [1]
        np.testing.assert_array_equal(backend.to_host(there), logits.astype(np.float32))


def test_a_token_that_is_known_twice_of_all_makes_its_own_divergence_nan(
    backend: Any, logits: np.ndarray, teacher: np.ndarray
) -> None:
    ids, values, tail = top_k(teacher, N)
    ids[1, 0] = ids[1, 1]
    known = [on(backend, each) for each in (ids, values, tail)]
    divergences, _ = backend.distillation_top_k(on(backend, logits), *known, N, None, None, DistillationParams(), None)
    assert nan_rows(backend, divergences) == [1]


def test_a_column_out_of_range_is_nan_and_takes_nothing(backend: Any, logits: np.ndarray) -> None:
    columns, there = on(backend, np.array([2, -1, VOCAB], np.int32)), on(backend, logits)
    taken = backend.to_host(backend.take_columns(there, columns))
    np.testing.assert_array_equal(np.isnan(taken), [[False, True, True]] * ROWS)
    backend.add_to_columns(there, columns, on(backend, np.ones((ROWS, 3))))
    expected = logits.astype(np.float32)
    expected[:, 2] += 1
    np.testing.assert_array_equal(backend.to_host(there), expected)


def test_columns_are_taken_and_added_to_in_bfloat16(backend: Any, logits: np.ndarray) -> None:
    columns, there = (
        on(backend, np.array([7, 0, 3], np.int32)),
        backend.cast(on(backend, logits), backend.runtime.bfloat16),
    )
    rounded = backend.to_host(there)
    taken = backend.take_columns(there, columns)
    assert taken.dtype == backend.runtime.bfloat16
    np.testing.assert_array_equal(backend.to_host(taken), rounded[:, [7, 0, 3]])
    backend.add_to_columns(there, columns, taken)
    expected = rounded.copy()
    expected[:, [7, 0, 3]] *= 2
    np.testing.assert_array_equal(backend.to_host(there), expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [1e-6, 1 - 1e-6])
def test_shares_next_to_0_and_1_keep_their_digits(backend: Any, kind: DivergenceKind, beta: float) -> None:
    """Where the mixture of Jensen-Shannon is almost one of its parts."""
    rng = np.random.default_rng(0)
    params = DistillationParams(kind, beta=beta)
    logits, teacher = 8 * rng.normal(size=(4, 50)), log_softmax(8 * rng.normal(size=(4, 50)))
    actual, _ = backend.distillation(on(backend, logits), on(backend, teacher), None, None, params, None)
    truth, _ = TRUTH.distillation(on(TRUTH, logits), on(TRUTH, teacher), None, None, params, None)
    assert_close(backend.to_host(actual), truth, 1e-6)


def test_a_student_that_rules_all_tokens_out_is_nan_as_in_the_softmax(backend: Any, teacher: np.ndarray) -> None:
    logits = on(backend, np.full((ROWS, VOCAB), -np.inf))
    divergences, _ = backend.distillation(logits, on(backend, teacher), None, None, DistillationParams(), 1.0)
    assert nan_rows(backend, divergences) == [0, 1, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("column", [0, VOCAB - 1])
def test_a_logit_that_is_not_finite_makes_its_own_row_nan(
    backend: Any, logits: np.ndarray, teacher: np.ndarray, bad: float, column: int
) -> None:
    logits[1, column] = bad
    targets = on(backend, np.zeros(ROWS, np.int32))
    there = on(backend, logits)
    params = DistillationParams(alpha=0.5)
    _, losses = backend.distillation(there, on(backend, teacher), targets, None, params, 1.0)
    assert nan_rows(backend, losses) == [1]
    assert nan_rows(backend, there.sum(axis=1)) == [1]


def test_nothing_waits_for_the_device(backend: Any, logits: np.ndarray, teacher: np.ndarray) -> None:
    targets, weights = on(backend, np.zeros(ROWS, np.int32)), on(backend, np.ones(ROWS))
    there, dense = on(backend, logits), on(backend, teacher)
    few, all_known = ([on(backend, each) for each in top_k(teacher, k)] for k in (2, N))
    columns, ones = on(backend, np.arange(3, dtype=np.int32)), on(backend, np.ones((ROWS, 3)))
    before = waits["count"]
    for rest in ((targets, weights, DistillationParams(alpha=0.5), 1.0), (None, None, DistillationParams(), None)):
        backend.distillation(there, dense, *rest)
        backend.distillation_top_k(there, *few, N, *rest)
        backend.distillation_top_k(there, *all_known, N, *rest)
    backend.take_columns(there, columns)
    backend.add_to_columns(there, columns, ones)
    assert waits["count"] == before


Z, IDS, TARGETS = np.zeros((3, 5), np.float32), np.zeros((3, 2), np.int32), np.zeros(3, np.int32)
DENSE = {"logits": Z, "teacher": Z, "targets": TARGETS, "weights": None}
SPARSE = {"logits": Z, "ids": IDS, "values": Z[:, :2], "log_tail": Z[:, 0], "n": 5, "targets": TARGETS, "weights": None}


@pytest.mark.parametrize(
    ("kernel", "change", "message"),
    [
        ("distillation", {"teacher": np.zeros((2, 5), np.float32)}, r"a teacher's \(2, 5\) for logits \(3, 5\)"),
        ("distillation", {"teacher": np.zeros((3, 6), np.float32)}, r"a teacher's \(3, 6\)"),
        ("distillation", {"teacher": np.zeros((3, 0), np.float32)}, r"a teacher's \(3, 0\)"),
        ("distillation", {"teacher": np.zeros((3, 5))}, "teacher is float64"),
        ("distillation", {"targets": np.zeros(2, np.int32)}, r"targets of shape \(2,\)"),
        ("distillation", {"targets": np.zeros(3, np.int64)}, "targets is int64"),
        ("distillation", {"targets": None}, "needs targets"),
        ("distillation", {"weights": np.zeros(2, np.float32)}, r"weights of shape \(2,\)"),
        ("distillation_top_k", {"ids": np.zeros((2, 2), np.int32)}, r"ids \(2, 2\) of 5 tokens for logits \(3, 5\)"),
        ("distillation_top_k", {"n": 6}, "of 6 tokens"),
        ("distillation_top_k", {"n": 1}, "of 1 tokens"),
        ("distillation_top_k", {"values": np.zeros((3, 1), np.float32)}, r"values of shape \(3, 1\)"),
        ("distillation_top_k", {"log_tail": np.zeros(2, np.float32)}, r"log_tail of shape \(2,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(backend: Any, kernel: str, change: dict[str, Any], message: str) -> None:
    arguments = (DENSE if kernel == "distillation" else SPARSE) | change
    there = {
        name: backend.asarray(each, each.dtype) if isinstance(each, np.ndarray) else each
        for name, each in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        getattr(backend, kernel)(**there, params=DistillationParams(alpha=0.5), scale=1.0)


def test_logits_with_gaps_are_not_changed_in_place(backend: Any) -> None:
    logits, teacher = backend.zeros((5, 3)).T, backend.zeros((3, 5))
    with pytest.raises(ValueError, match=r"logits is float32 \(3, 5\) with gaps"):
        backend.distillation(logits, teacher, None, None, DistillationParams(), 1.0)
    backend.distillation(logits, teacher, None, None, DistillationParams(), None)


def test_sums_into_columns_have_a_value_for_each(backend: Any) -> None:
    with pytest.raises(ValueError, match=r"values of shape \(3, 5\)"):
        backend.add_to_columns(backend.zeros((3, 5)), backend.zeros((2,), np.int32), backend.zeros((3, 5)))

"""The fused distillation loss: what it asks of its teacher, adds up and refuses, and that its chunks do not matter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise, loss
from entrenar_core.autograd.ops.distillation import (
    DenseChunk,
    LossSums,
    TeacherRows,
    TopKChunk,
    linear_distillation,
)
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError
from tests.autograd.distillation_cases import (
    COLUMNS,
    KINDS,
    LABELS,
    N_ROWS,
    TEACHER_VOCAB,
    VOCAB,
    WIDTH,
    DenseTeacher,
    TopKTeacher,
    teacher_values,
    top_k,
)

Array = np.ndarray
SUPERVISED = np.flatnonzero(LABELS >= 0)
PARAMS = DistillationParams(temperature=1.7, alpha=0.6)
WEIGHTS = np.array([0.5, 2.0, 1.0, 0.0, 1.5])
SCALE = 0.25


def problem() -> tuple[Array, Array]:
    rng = np.random.default_rng(1)
    return rng.standard_normal((N_ROWS, WIDTH)), rng.standard_normal((VOCAB, WIDTH))


def distil(
    backend: Any, teacher: TeacherRows, params: DistillationParams = PARAMS, *, frozen: bool = False, **options: Any
) -> tuple[Array, ...]:
    """Loss and gradients of hidden states and matrix (unless it is frozen)."""
    factor, labels = options.pop("factor", 1.0), options.pop("labels", LABELS)
    hidden, weight = (Tensor(backend.asarray(x), backend, requires_grad=True) for x in problem())
    operand = backend.prepare_weight(weight.data) if frozen else weight
    with Tape() as tape:
        total = linear_distillation(hidden, operand, labels, teacher, params, SCALE, **options)
        total = elementwise.scale(total, factor)
    tape.backward(total)
    assert total.data.dtype == np.float64
    return (total.data, hidden.grad) if frozen else (total.data, hidden.grad, weight.grad)


def dense(backend: Any, params: DistillationParams = PARAMS, weights: Array | None = WEIGHTS) -> DenseTeacher:
    return DenseTeacher(backend, teacher_values(params.kind, params.temperature), weights)


def known(backend: Any, k: int, params: DistillationParams = PARAMS, weights: Array | None = WEIGHTS) -> TopKTeacher:
    values = teacher_values(params.kind, params.temperature)
    return TopKTeacher(backend, *top_k(values, k, logs=params.kind != "logit_mse"), TEACHER_VOCAB, weights)


def assert_same(actual: tuple[Array, ...], expected: tuple[Array, ...], rtol: float = 1e-12) -> None:
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 3, 4, 5, 6, None])
@pytest.mark.parametrize("on", ["double", "cpu"])
def test_the_size_of_the_chunks_does_not_matter(
    on: str, rows_per_chunk: int | None, request: pytest.FixtureRequest
) -> None:
    backend = request.getfixturevalue(on)
    for teacher in (dense(backend), known(backend, 2)):
        actual = distil(backend, teacher, rows_per_chunk=rows_per_chunk)
        assert_same(actual, distil(backend, teacher, rows_per_chunk=100), 1e-12 if on == "double" else 2e-6)


@dataclass
class Witness:
    """Passes on what a teacher says and keeps which rows it was asked for."""

    teacher: TeacherRows
    asked: list[tuple[int, int]] = field(default_factory=list)

    def chunk(self, part: slice) -> DenseChunk | TopKChunk:
        self.asked.append((part.start, part.stop))
        return self.teacher.chunk(part)


def test_a_teacher_is_asked_once_for_each_chunk_of_the_supervised_rows(double: ReferenceBackend) -> None:
    witness = Witness(dense(double))
    distil(double, witness, rows_per_chunk=2)
    assert witness.asked == [(0, 2), (2, 4), (4, 5)]


@pytest.mark.parametrize("columns", [None, COLUMNS])
@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
def test_sums_are_those_the_loss_is_made_of(alpha: float, columns: Array | None, double: ReferenceBackend) -> None:
    params = replace(PARAMS, alpha=alpha)
    sums = LossSums()
    for times in (1, 2):
        total, *_ = distil(double, dense(double), params, sums=sums, columns=columns, rows_per_chunk=2)
        assert sums.rows == times * len(SUPERVISED)
        both = alpha * sums.divergence + (1 - alpha) * sums.cross_entropy
        np.testing.assert_allclose(total, SCALE * both / times, rtol=1e-12)
    hidden, weight = problem()
    plain = loss.linear_cross_entropy(Tensor(hidden, double), Tensor(weight, double), LABELS, 2.0)
    np.testing.assert_allclose(sums.cross_entropy, 0 if alpha == 1 else plain.data, rtol=1e-12)
    assert sums.divergence > 0


@pytest.mark.parametrize("kind", KINDS)
def test_weights_weigh_the_divergence_alone(kind: DivergenceKind, double: ReferenceBackend) -> None:
    params = DistillationParams(kind, alpha=1.0)
    one = distil(double, dense(double, params, None), params)
    half = distil(double, dense(double, params, np.full(5, 0.5)), params)
    assert_same(tuple(2 * each for each in half), one)
    nothing = distil(double, dense(double, params, np.zeros(5)), replace(params, alpha=0.3))
    hidden, weight = (Tensor(x, double, requires_grad=True) for x in problem())
    with Tape() as tape:
        total = loss.linear_cross_entropy(hidden, weight, LABELS, SCALE * 0.7)
    tape.backward(total)
    assert_same(nothing, (total.data, hidden.grad, weight.grad))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("columns", [None, COLUMNS])
def test_alpha_0_is_cross_entropy(kind: DivergenceKind, columns: Array | None, double: ReferenceBackend) -> None:
    params = DistillationParams(kind, 3.0, alpha=0.0)
    hidden, weight = (Tensor(x, double, requires_grad=True) for x in problem())
    with Tape() as tape:
        total = loss.linear_cross_entropy(hidden, weight, LABELS, SCALE)
    tape.backward(total)
    actual = distil(double, dense(double, params), params, columns=columns)
    assert_same(actual, (total.data, hidden.grad, weight.grad))


@pytest.mark.parametrize("columns", [None, COLUMNS])
@pytest.mark.parametrize("on", ["double", "cpu"])
def test_with_alpha_1_labels_have_no_effect(on: str, columns: Array | None, request: pytest.FixtureRequest) -> None:
    backend, params = request.getfixturevalue(on), replace(PARAMS, alpha=1.0)
    results = []
    for seed in (0, 1):
        labels = np.where(LABELS >= 0, np.random.default_rng(seed).integers(0, VOCAB, N_ROWS), LABELS).astype(np.int32)
        results.append(distil(backend, dense(backend), params, labels=labels, columns=columns))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("alpha", [0.4, 1.0])
@pytest.mark.parametrize("on", ["double", "cpu"])
def test_columns_are_the_student_s_in_the_teacher_s_order(
    kind: DivergenceKind, alpha: float, on: str, request: pytest.FixtureRequest
) -> None:
    """Gathering columns is a student whose matrix has its rows in another order."""
    backend, params = request.getfixturevalue(on), DistillationParams(kind, 1.7, alpha)
    order = np.concatenate([COLUMNS, np.setdiff1d(np.arange(VOCAB), COLUMNS)])
    place = np.argsort(order)
    labels = np.where(LABELS >= 0, place[np.maximum(LABELS, 0)], LABELS).astype(np.int32)
    for teacher in (dense(backend, params), known(backend, 2, params)):
        total, dhidden, dweight = distil(backend, teacher, params, columns=COLUMNS, rows_per_chunk=2)
        hidden, weight = problem()
        first = Tensor(backend.asarray(hidden), backend, requires_grad=True)
        reordered = Tensor(backend.asarray(weight[order]), backend, requires_grad=True)
        with Tape() as tape:
            expected = linear_distillation(first, reordered, labels, teacher, params, SCALE)
        tape.backward(expected)
        assert_same((total, dhidden, dweight[order]), (expected.data, first.grad, reordered.grad), 2e-6)


def test_a_frozen_matrix_gives_the_same_loss_and_hidden_gradient(double: ReferenceBackend) -> None:
    assert_same(distil(double, dense(double), frozen=True), distil(double, dense(double))[:2])


@pytest.mark.parametrize("frozen", [False, True])
def test_an_upstream_factor_scales_every_gradient(frozen: bool, double: ReferenceBackend) -> None:
    once = distil(double, dense(double), frozen=frozen)
    assert_same(distil(double, dense(double), frozen=frozen, factor=3.0), tuple(3 * each for each in once))


@pytest.mark.parametrize("columns", [None, COLUMNS])
@pytest.mark.parametrize("alpha", [0.6, 1.0])
def test_without_a_tape_the_value_is_the_same(alpha: float, columns: Array | None, double: ReferenceBackend) -> None:
    params = replace(PARAMS, alpha=alpha)
    hidden, weight = (Tensor(x, double) for x in problem())
    total = linear_distillation(hidden, weight, LABELS, dense(double), params, SCALE, columns=columns)
    assert not total.requires_grad
    np.testing.assert_array_equal(total.data, distil(double, dense(double), params, columns=columns)[0])


def test_without_a_supervised_row_the_teacher_is_not_asked(double: ReferenceBackend) -> None:
    witness, sums = Witness(dense(double)), LossSums()
    results = distil(double, witness, labels=np.full(N_ROWS, -100, np.int32), sums=sums)
    assert (witness.asked, sums) == ([], LossSums())
    for result in results:
        np.testing.assert_array_equal(result, np.zeros_like(result))


def test_neither_model_s_logits_exist_for_more_than_a_chunk(cpu: CpuBackend) -> None:
    rows, width, vocab = 96, 8, 1024
    rng = np.random.default_rng(0)
    hidden = Tensor(cpu.asarray(rng.standard_normal((rows, width))), cpu, requires_grad=True)
    weight = cpu.prepare_weight(cpu.asarray(rng.standard_normal((vocab, width))))
    labels = rng.integers(0, vocab, rows).astype(np.int32)

    class Fresh:
        def chunk(self, part: slice) -> DenseChunk:
            return DenseChunk(cpu.zeros((part.stop - part.start, vocab)))

    cpu.pool.reset_peak()
    held = cpu.pool.statistics().in_use
    with Tape() as tape:
        total = linear_distillation(hidden, weight, labels, Fresh(), PARAMS, 1 / rows, rows_per_chunk=8)
    tape.backward(total)
    assert cpu.pool.statistics().peak - held < 4 * 8 * vocab * 4 < rows * vocab * 4


BACKEND = ReferenceBackend(np.float64)


def tensor(*sizes: int) -> Tensor:
    return Tensor(np.ones(sizes), BACKEND)


@dataclass
class Saying:
    """A teacher that says the same whatever it is asked."""

    said: DenseChunk | TopKChunk

    def chunk(self, part: slice) -> DenseChunk | TopKChunk:
        return self.said


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": tensor(4)}, r"distillation: rows of shape \(4,\) but labels of shape \(4,\)"),
        ({"labels": np.zeros(3, np.int32)}, r"distillation: rows of shape \(4, 3\) but labels of shape \(3,\)"),
        ({"weight": tensor(5, 2)}, r"distillation: hidden states \(4, 3\) for an output matrix \(5, 2\)"),
        ({"teacher": Saying(DenseChunk(np.zeros((3, 5))))}, "the teacher gave 3 rows where 4 were asked for"),
        ({"teacher": Saying(DenseChunk(np.zeros((4, 6))))}, "a teacher of 6 tokens for a student of 5"),
        (
            {"teacher": Saying(TopKChunk(np.zeros((4, 1), np.int32), np.zeros((4, 1)), np.zeros(4), 6))},
            "a teacher of 6 tokens for a student of 5",
        ),
        ({"columns": np.array([0, 1], np.int32)}, "a teacher of 3 tokens for 2 columns of the student"),
        ({"columns": np.array([0, 1, 1], np.int32)}, r"columns \(3,\) are no set of the student's 5 tokens"),
        ({"columns": np.array([0, 1, 5], np.int32)}, "are no set"),
        ({"columns": np.array([0, -1, 4], np.int32)}, "are no set"),
        ({"columns": np.array([], np.int32)}, "are no set"),
        ({"columns": np.array([[0, 1, 2]], np.int32)}, r"columns \(1, 3\) are no set"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "hidden": tensor(4, 3),
        "weight": tensor(5, 3),
        "labels": np.zeros(4, np.int32),
        "teacher": Saying(DenseChunk(np.log(np.full((4, 3), 1 / 3)))),
    }
    with pytest.raises(AutogradError, match=message):
        linear_distillation(**(arguments | change), params=DistillationParams(), scale=1.0)


def test_a_set_of_columns_from_the_first_to_the_last_is_taken() -> None:
    teacher = Saying(DenseChunk(np.log(np.full((4, 2), 1 / 2))))
    columns = np.array([4, 0], np.int32)
    params = DistillationParams()
    total = linear_distillation(
        tensor(4, 3), tensor(5, 3), np.zeros(4, np.int32), teacher, params, 1.0, columns=columns
    )
    np.testing.assert_allclose(total.data, 0, atol=1e-12)

"""Laws of distillation losses: signs, zeros, limits of temperature and alpha, what does not matter, coarse views."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from entrenar_core.autograd.ops import loss
from entrenar_core.autograd.ops.distillation import linear_distillation
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind
from entrenar_core.backend.reference import ReferenceBackend
from tests.autograd.distillation_cases import KINDS, DenseTeacher, TopKTeacher, log_softmax, top_k

pytestmark = pytest.mark.property

Array = np.ndarray
DOUBLE = ReferenceBackend(np.float64)
CPU = CpuBackend(threads=1, debug_pool=True)
BOTH = st.sampled_from([DOUBLE, CPU])
DIVERGENCES = KINDS[:4]
WIDTH = 4


@dataclass(frozen=True)
class Problem:
    """Hidden states [M, D], output matrix [V, D], labels, and the logits [M, n] of a teacher."""

    hidden: Array
    matrix: Array
    labels: Array
    teacher: Array

    @property
    def logits(self) -> Array:
        return self.hidden @ self.matrix.T


@st.composite
def problems(draw: st.DrawFn, *, same_vocabulary: bool = False) -> Problem:
    rows, vocab = draw(st.integers(1, 5)), draw(st.integers(2, 12))
    n = vocab if same_vocabulary else draw(st.integers(2, vocab))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    spread = draw(st.sampled_from([0.1, 1.0, 4.0]))
    labels = rng.integers(0, vocab, rows).astype(np.int32)
    labels[rng.random(rows) < 0.3] = -100
    labels[0] = rng.integers(0, vocab)
    hidden, matrix = rng.standard_normal((rows, WIDTH)), rng.standard_normal((vocab, WIDTH))
    return Problem(spread * hidden, matrix, labels, spread * rng.standard_normal((int((labels >= 0).sum()), n)))


@st.composite
def settings(draw: st.DrawFn, kinds: tuple[DivergenceKind, ...] = KINDS) -> DistillationParams:
    return DistillationParams(
        draw(st.sampled_from(kinds)),
        draw(st.sampled_from([0.3, 1.0, 2.0, 3.5])),
        draw(st.sampled_from([0.0, 0.5, 1.0])),
        draw(st.sampled_from([0.1, 0.5, 0.8])),
    )


def values_of(teacher: Array, params: DistillationParams) -> Array:
    return teacher if params.kind == "logit_mse" else log_softmax(teacher, params.temperature)


def distil(
    problem: Problem, params: DistillationParams, backend: Any = DOUBLE, *, k: int | None = None, **options: Any
) -> tuple[float, Array, Array]:
    """The loss, with scale 1, and the gradients of hidden states and matrix."""
    hidden, matrix = (
        Tensor(backend.asarray(each), backend, requires_grad=True) for each in (problem.hidden, problem.matrix)
    )
    values = values_of(problem.teacher, params)
    teacher: Any = DenseTeacher(backend, values)
    if k is not None:
        teacher = TopKTeacher(backend, *top_k(values, k, logs=params.kind != "logit_mse"), values.shape[1])
    with Tape() as tape:
        total = linear_distillation(hidden, matrix, problem.labels, teacher, params, 1.0, **options)
    tape.backward(total)
    return float(total.data), np.asarray(hidden.grad), np.asarray(matrix.grad)


def assert_same(one: tuple[Any, ...], other: tuple[Any, ...], tolerance: float) -> None:
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0))))


def like(problem: Problem) -> Problem:
    """With a teacher whose logits are those of the student, but for a constant in each row."""
    logits = problem.logits[problem.labels >= 0][:, : problem.teacher.shape[1]]
    return replace(problem, teacher=logits + np.arange(len(logits))[:, None])


@given(problems(), settings(), BOTH)
def test_a_divergence_is_never_negative(problem: Problem, params: DistillationParams, backend: Any) -> None:
    params = replace(params, alpha=1.0)
    assert distil(problem, params, backend)[0] >= (-1e-13 if backend is DOUBLE else 0)
    assert distil(problem, params, backend, k=1)[0] >= (-1e-13 if backend is DOUBLE else 0)


@given(problems(), settings(DIVERGENCES), BOTH)
def test_it_is_zero_for_equal_distributions_and_so_is_its_gradient(
    problem: Problem, params: DistillationParams, backend: Any
) -> None:
    params = replace(params, alpha=1.0)
    results = distil(like(problem), params, backend)
    assert_same(results, tuple(np.zeros_like(each) for each in results), 1e-12 if backend is DOUBLE else 2e-4)
    assert results[0] < (1e-12 if backend is DOUBLE else 1e-8)


@given(problems(), settings(DIVERGENCES))
def test_it_is_zero_for_no_others(problem: Problem, params: DistillationParams) -> None:
    student = log_softmax(problem.logits[problem.labels >= 0][:, : problem.teacher.shape[1]], params.temperature)
    apart = np.abs(np.exp(student) - np.exp(log_softmax(problem.teacher, params.temperature))).sum(axis=-1).max()
    assume(apart > 1e-3)
    divergence = distil(problem, replace(params, alpha=1.0))[0] / params.temperature**2
    share = params.beta * (1 - params.beta) if params.kind == "jensen_shannon" else 1.0
    assert divergence >= share * apart**2 / 2 * (1 - 1e-9), "Pinsker's bound"


@given(problems())
def test_a_hot_forward_divergence_is_half_the_variance_of_the_difference(problem: Problem) -> None:
    """T²·KL → Σ (d - mean d)² / 2n with d the difference of logits (Hinton et al. 2015, section 2.1)."""
    n = problem.teacher.shape[1]
    difference = problem.logits[problem.labels >= 0][:, :n] - problem.teacher
    limit = np.square(difference - difference.mean(axis=-1, keepdims=True)).sum() / (2 * n)
    for kind, share in (("forward_kl", 1.0), ("reverse_kl", 1.0), ("symmetric_kl", 1.0), ("jensen_shannon", 0.25)):
        assert distil(problem, DistillationParams(kind, temperature=1e4))[0] == pytest.approx(
            share * limit, rel=1e-2, abs=1e-6
        )


@given(problems())
def test_a_cold_divergence_compares_the_likeliest_tokens(problem: Problem) -> None:
    """T → 0: T·KL → how far the student's logit of the teacher's likeliest token is below the student's largest."""
    temperature = 1e-4
    student = problem.logits[problem.labels >= 0][:, : problem.teacher.shape[1]]
    first = np.sort(problem.teacher, axis=-1)
    assume((first[:, -1] - first[:, -2]).min() > 0.01)
    chosen = np.take_along_axis(student, problem.teacher.argmax(axis=-1)[:, None], axis=-1)
    behind = (student.max(axis=-1, keepdims=True) - chosen).sum()
    cold = distil(problem, DistillationParams(temperature=temperature))[0] / temperature
    assert cold == pytest.approx(behind, abs=len(student) * temperature * 10)


@given(problems(), settings(), BOTH)
def test_alpha_0_is_cross_entropy_and_alpha_1_knows_no_labels(
    problem: Problem, params: DistillationParams, backend: Any
) -> None:
    hidden, matrix = (
        Tensor(backend.asarray(each), backend, requires_grad=True) for each in (problem.hidden, problem.matrix)
    )
    with Tape() as tape:
        total = loss.linear_cross_entropy(hidden, matrix, problem.labels, 1.0)
    tape.backward(total)
    expected = float(total.data), np.asarray(hidden.grad), np.asarray(matrix.grad)
    tolerance = 1e-12 if backend is DOUBLE else 5e-6
    assert_same(distil(problem, replace(params, alpha=0.0), backend), expected, tolerance)
    others = np.where(problem.labels >= 0, 0, problem.labels).astype(np.int32)
    alone = replace(params, alpha=1.0)
    assert_same(distil(problem, alone, backend), distil(replace(problem, labels=others), alone, backend), 0)


@given(problems(), settings(), BOTH, st.integers(1, 5), st.booleans())
def test_the_size_of_the_chunks_does_not_matter(
    problem: Problem, params: DistillationParams, backend: Any, rows: int, sparse: bool
) -> None:
    k = 1 if sparse else None
    expected = distil(problem, params, backend, k=k)
    tolerance = 1e-12 if backend is DOUBLE else 5e-6
    assert_same(distil(problem, params, backend, k=k, rows_per_chunk=rows), expected, tolerance)


@given(problems(same_vocabulary=True), settings(), BOTH, st.integers(0, 2**32 - 1), st.booleans())
def test_the_order_of_the_vocabulary_does_not_matter(
    problem: Problem, params: DistillationParams, backend: Any, seed: int, sparse: bool
) -> None:
    order = np.random.default_rng(seed).permutation(len(problem.matrix))
    labels = np.where(problem.labels >= 0, np.argsort(order)[np.maximum(problem.labels, 0)], problem.labels)
    moved = Problem(problem.hidden, problem.matrix[order], labels.astype(np.int32), problem.teacher[:, order])
    k = 1 if sparse else None
    total, dhidden, dmatrix = distil(problem, params, backend, k=k)
    tolerance = 1e-12 if backend is DOUBLE else 1e-5
    assert_same(distil(moved, params, backend, k=k), (total, dhidden, dmatrix[order]), tolerance)


@given(problems(), settings(DIVERGENCES), st.sampled_from([-30.0, 0.5, 700.0]))
def test_a_constant_on_all_logits_does_not_matter(problem: Problem, params: DistillationParams, shift: float) -> None:
    """A hidden unit of 1 adds it to the student's logits; in single precision they would lose digits."""
    total, dhidden, dmatrix = distil(problem, params)
    wider = replace(
        problem,
        hidden=np.hstack([problem.hidden, np.ones((len(problem.hidden), 1))]),
        matrix=np.hstack([problem.matrix, np.full((len(problem.matrix), 1), shift)]),
        teacher=problem.teacher - shift,
    )
    shifted, dwider, dwide_matrix = distil(wider, params)
    assert_same((shifted, dwider[:, :-1], dwide_matrix[:, :-1]), (total, dhidden, dmatrix), 1e-9)


@given(problems(), st.sampled_from([-3.0, 0.5]))
def test_it_does_matter_to_the_squared_error_of_logits(problem: Problem, shift: float) -> None:
    moved = replace(problem, teacher=problem.teacher - shift)
    params = DistillationParams("logit_mse")
    difference = (problem.logits[problem.labels >= 0][:, : problem.teacher.shape[1]] - problem.teacher).mean(axis=-1)
    expected = distil(problem, params)[0] + (2 * shift * difference + shift**2).sum()
    assert distil(moved, params)[0] == pytest.approx(expected, rel=1e-9, abs=1e-9)


@given(problems(), settings(), BOTH)
def test_all_tokens_known_is_the_dense_loss(problem: Problem, params: DistillationParams, backend: Any) -> None:
    assert_same(distil(problem, params, backend, k=problem.teacher.shape[1]), distil(problem, params, backend), 0)


@given(problems(), settings(DIVERGENCES), BOTH, st.integers(1, 11))
def test_a_coarser_view_never_shows_a_larger_divergence(
    problem: Problem, params: DistillationParams, backend: Any, k: int
) -> None:
    """The data-processing inequality: K tokens and the rest together, then fewer and a larger rest."""
    params = replace(params, alpha=1.0)
    n = problem.teacher.shape[1]
    assume(k < n)
    finer = distil(problem, params, backend, k=min(k + 1, n))[0]
    coarser = distil(problem, params, backend, k=k)[0]
    slack = 1e-12 if backend is DOUBLE else 2e-6 * max(1.0, params.temperature**2)
    assert coarser <= finer * (1 + slack) + slack
    assert finer <= distil(problem, params, backend)[0] * (1 + slack) + slack


@given(problems(), settings(DIVERGENCES))
def test_jensen_shannon_with_swapped_sides_is_that_of_the_other_share(
    problem: Problem, params: DistillationParams
) -> None:
    params = replace(params, kind="jensen_shannon", alpha=1.0)
    student = problem.logits[problem.labels >= 0][:, : problem.teacher.shape[1]]
    labels = np.zeros(len(student), np.int32)
    one = Problem(student, np.eye(student.shape[1]), labels, problem.teacher)
    other = Problem(problem.teacher, np.eye(student.shape[1]), labels, student)
    assert distil(one, params)[0] == pytest.approx(distil(other, replace(params, beta=1 - params.beta))[0], abs=1e-12)


@given(problems(), st.sampled_from([0.5, 1.0, 3.0]))
def test_the_symmetric_divergence_is_the_mean_of_both_and_does_not_care_who_teaches(
    problem: Problem, temperature: float
) -> None:
    forward, reverse, symmetric = (
        distil(problem, DistillationParams(kind, temperature)) for kind in ("forward_kl", "reverse_kl", "symmetric_kl")
    )
    assert_same(symmetric, tuple((a + b) / 2 for a, b in zip(forward, reverse, strict=True)), 1e-10)

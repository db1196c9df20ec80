"""Divergence from a teacher on every backend: the reference's numbers, for any temperature, vocabulary and size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.parameters import DistillationParams, DivergenceKind
from entrenar_core.jit import jit_enabled
from tests.autograd.distillation_cases import KINDS, log_softmax, top_k
from tests.backend.agreement import TRUTH, assert_agrees, assert_close, on

Array = np.ndarray
SCALE = 0.125


def problem(
    rows: int, vocab: int, n: int, params: DistillationParams, *, spread: float = 3.0, seed: int = 0
) -> tuple[Array, Array, Array, Array]:
    """Logits [M, V], values [M, n] of a teacher that is a little like the student, targets and weights."""
    rng = np.random.default_rng([rows, vocab, n, seed])
    logits = spread * rng.normal(size=(rows, vocab))
    other = logits[:, :n] + 0.3 * spread * rng.normal(size=(rows, n))
    teacher = other if params.kind == "logit_mse" else log_softmax(other, params.temperature)
    return logits, teacher, rng.integers(0, vocab, rows).astype(np.int32), rng.uniform(0.5, 2, rows)


def largest_term(params: DistillationParams, logits: Array, teacher: Array, n: int) -> float:
    """The size of what gradients are differences of: probabilities, times log-ratios unless the KL is forward."""
    if params.kind == "logit_mse":
        return float(SCALE * np.abs(logits[:, :n] - teacher).max(initial=0) / n)
    ratios = np.abs(log_softmax(logits[:, :n], params.temperature) - teacher).max(initial=0)
    return float(SCALE * params.temperature * (1 if params.kind in {"forward_kl", "jensen_shannon"} else ratios))


def assert_distillation_agrees(
    backend: Any, kernel: str, logits: Array, *args: Any, terms: float, tolerance: float = 5e-6
) -> None:
    """Values with and without a gradient, and the gradient, against the reference in double.

    The mass of many tokens together is a sum that single precision knows to 1e-7, which temperature² enlarges.
    """
    summed = 0.02 * args[-1].temperature ** 2 if kernel == "distillation_top_k" else 0.0
    assert_agrees(backend, kernel, logits, *args, None, tolerance=tolerance, terms=summed)
    gradient, expected = on(backend, logits), on(TRUTH, logits)
    actual = getattr(backend, kernel)(gradient, *(on(backend, each) for each in args), SCALE)
    truth = getattr(TRUTH, kernel)(expected, *(on(TRUTH, each) for each in args), SCALE)
    for what, one, other in zip(("divergences", "cross-entropies"), actual, truth, strict=True):
        assert_close(backend.to_host(one), other, tolerance, what, summed)
    assert_close(backend.to_host(gradient), expected, tolerance, "gradient", terms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 0.01, 7.3])
@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
def test_divergence(backend: Any, kind: DivergenceKind, temperature: float, alpha: float) -> None:
    params = DistillationParams(kind, temperature, alpha, beta=0.3)
    logits, teacher, targets, weights = problem(5, 29, 23, params)
    terms = largest_term(params, logits, teacher, 23)
    assert_distillation_agrees(backend, "distillation", logits, teacher, targets, weights, params, terms=terms)
    args = (*top_k(teacher, 4, logs=kind != "logit_mse"), 23, targets, weights, params)
    assert_distillation_agrees(backend, "distillation_top_k", logits, *args, terms=terms)


SIZES = [(0, 3, 3), (1, 1, 1), (2, 1, 1), (4, 3, 1), (1, 1100, 1023), (1, 1024, 1024), (1, 1025, 1025)]
LONG = [(3, 2200, 2100), (2, 33_000, 33_000)] if jit_enabled() else []
"""Rows that plain Python would take minutes for."""


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "vocab", "n"), SIZES + LONG)
def test_divergence_of_any_size(backend: Any, kind: DivergenceKind, rows: int, vocab: int, n: int) -> None:
    params = DistillationParams(kind, temperature=2.0, alpha=0.5)
    logits, teacher, targets, _ = problem(rows, vocab, n, params)
    terms = largest_term(params, logits, teacher, n)
    assert_distillation_agrees(backend, "distillation", logits, teacher, targets, None, params, terms=terms)
    if n > 5:
        args = (*top_k(teacher, 5, logs=kind != "logit_mse"), n, targets, None, params)
        assert_distillation_agrees(backend, "distillation_top_k", logits, *args, terms=terms)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 1e-3])
@pytest.mark.parametrize("alpha", [0.5, 1.0])
def test_huge_logits_and_tiny_temperatures(
    backend: Any, kind: DivergenceKind, temperature: float, alpha: float
) -> None:
    params = DistillationParams(kind, temperature, alpha)
    logits, teacher, targets, weights = problem(6, 50, 41, params, spread=1e4)
    logits[0, :41] = 1e4
    logits[0, 3] = -1e4
    terms = largest_term(params, logits, teacher, 41)
    assert_distillation_agrees(backend, "distillation", logits, teacher, targets, weights, params, terms=terms)
    args = (*top_k(teacher, 3, logs=kind != "logit_mse"), 41, targets, weights, params)
    assert_distillation_agrees(backend, "distillation_top_k", logits, *args, terms=terms)


@pytest.mark.parametrize("kind", KINDS[:4])
def test_teacher_probabilities_that_underflow(backend: Any, kind: DivergenceKind) -> None:
    params = DistillationParams(kind, alpha=0.5)
    logits = np.array([[0.0, 1.0, -200.0, -300.0], [0.0, -150.0, -150.0, 2.0], [-120.0, 0.0, -110.0, -100.0]])
    teacher = log_softmax([[0.0, 0.5, -400.0, -120.0], [-160.0, 0.0, -150.0, 1.0], [0.0, -120.0, -90.0, -100.0]])
    targets = np.array([0, 1, 2], np.int32)
    terms = largest_term(params, logits, teacher, 4)
    assert_distillation_agrees(backend, "distillation", logits, teacher, targets, None, params, terms=terms)
    ids = np.array([[1, 0], [3, 2], [1, 3]], np.int32)
    values, others = (np.take_along_axis(teacher, each, axis=-1) for each in (ids, np.array([[2, 3], [0, 1], [0, 2]])))
    args = (ids, values, np.logaddexp.reduce(others, axis=-1), 4, targets, None, params)
    assert_distillation_agrees(backend, "distillation_top_k", logits, *args, terms=terms)


@pytest.mark.parametrize("kind", ["forward_kl", "jensen_shannon"])
def test_a_teacher_may_rule_tokens_out(backend: Any, kind: DivergenceKind) -> None:
    params = DistillationParams(kind, temperature=2.0, alpha=0.5)
    with np.errstate(divide="ignore"):
        teacher = np.log([[0.25, 0.75, 0.0], [0.0, 1.0, 0.0]])
    logits = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 1.0]])
    targets = np.array([0, 2], np.int32)
    truth = assert_agrees(backend, "distillation", logits, teacher, targets, None, params, None)
    assert np.isfinite(truth).all()
    assert_distillation_agrees(backend, "distillation", logits, teacher, targets, None, params, terms=1.0)


def test_the_reverse_divergence_from_a_token_ruled_out_is_infinite(backend: Any) -> None:
    teacher = np.array([[0.0, -np.inf]])
    params = DistillationParams("reverse_kl")
    (truth, _) = assert_agrees(backend, "distillation", np.zeros((1, 2)), teacher, None, None, params, None)
    assert truth[0] == np.inf


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_known_is_exactly_the_dense_divergence(backend: Any, kind: DivergenceKind) -> None:
    params = DistillationParams(kind, temperature=2.0, alpha=0.7)
    logits, teacher, targets, weights = problem(5, 23, 19, params)
    ids = np.random.default_rng(0).permuted(np.tile(np.arange(19, dtype=np.int32), (5, 1)), axis=1)
    values = np.take_along_axis(teacher, ids, axis=-1)
    tail = np.full(5, np.nan)
    sparse, dense = on(backend, logits), on(backend, logits)
    known = [on(backend, each) for each in (ids, values, tail)]
    rest = (on(backend, targets), on(backend, weights), params, SCALE)
    by_ids = backend.distillation_top_k(sparse, *known, 19, *rest)
    by_column = backend.distillation(dense, on(backend, teacher), *rest)
    for one, other in zip((sparse, *by_ids), (dense, *by_column), strict=True):
        np.testing.assert_array_equal(backend.to_host(one), backend.to_host(other))


@pytest.mark.parametrize("kind", KINDS)
def test_with_alpha_1_targets_are_not_looked_at(backend: Any, kind: DivergenceKind) -> None:
    params = DistillationParams(kind, temperature=1.5)
    logits, teacher, _, _ = problem(4, 9, 7, params)
    results = []
    for targets in (None, np.full(4, -100, np.int32)):
        gradient = on(backend, logits)
        values = backend.distillation(gradient, on(backend, teacher), on(backend, targets), None, params, SCALE)
        results.append([backend.to_host(each) for each in (gradient, *values)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(results[0][2], np.zeros(4))
    np.testing.assert_array_equal(results[0][0][:, 7:], np.zeros((4, 2)))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 3.0])
def test_with_alpha_0_the_gradient_is_that_of_cross_entropy(backend: Any, temperature: float) -> None:
    params = DistillationParams(temperature=temperature, alpha=0.0)
    logits, teacher, targets, weights = problem(7, 40, 31, params)
    gradient, expected = on(backend, logits), on(TRUTH, logits)
    _, losses = backend.distillation(
        gradient, *(on(backend, each) for each in (teacher, targets, weights)), params, SCALE
    )
    assert_close(backend.to_host(losses), TRUTH.cross_entropy(expected, targets, SCALE), 2e-6, "losses")
    assert_close(backend.to_host(gradient), expected, 2e-6, "gradient")


def test_a_scale_of_0_makes_a_gradient_of_zeros(backend: Any) -> None:
    params = DistillationParams(alpha=0.5)
    logits, teacher, targets, _ = problem(3, 9, 7, params)
    gradient = on(backend, logits)
    backend.distillation(gradient, on(backend, teacher), on(backend, targets), None, params, 0.0)
    np.testing.assert_array_equal(backend.to_host(gradient), np.zeros((3, 9)))


@pytest.mark.parametrize("temperature", [1.0, 2.5, 1e-3])
@pytest.mark.parametrize("shape", [(0, 5), (3, 1), (4, 33), (2, 2100)])
def test_log_softmax(backend: Any, shape: tuple[int, int], temperature: float) -> None:
    logits = 10 * np.random.default_rng(0).normal(size=shape)
    actual, truth = on(backend, logits), on(TRUTH, logits)
    backend.log_softmax(actual, temperature)
    TRUTH.log_softmax(truth, temperature)
    assert_close(backend.to_host(actual), truth, 2e-7)
    np.testing.assert_allclose(truth, log_softmax(logits.astype(np.float32), temperature), rtol=1e-12)


def test_a_student_that_repeats_its_teacher_differs_by_nothing(backend: Any) -> None:
    logits = 5 * np.random.default_rng(0).normal(size=(2, 300))
    for temperature in (0.1, 1.0, 100.0):
        teacher = on(backend, logits)
        backend.log_softmax(teacher, temperature)
        for kind in KINDS[:4]:
            student = on(backend, logits)
            params = DistillationParams(kind, temperature)
            divergences, _ = backend.distillation(student, teacher, None, None, params, 1.0)
            assert (np.abs(backend.to_host(divergences)) < 1e-11 * temperature**2).all()
            assert (np.abs(backend.to_host(student)) < 2e-6 * temperature).all()


@pytest.mark.parametrize("kind", KINDS[:4])
def test_nearly_equal_ones_differ_by_little_and_never_less_than_nothing(backend: Any, kind: DivergenceKind) -> None:
    """To second order KL is half the variance of the difference, which single precision must not lose."""
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 500)).astype(np.float32)
    nudge = np.float32(1e-3) * rng.normal(size=(3, 500)).astype(np.float32)
    teacher = on(backend, logits + nudge)
    backend.log_softmax(teacher, 1.0)
    divergences = backend.distillation(on(backend, logits), teacher, None, None, DistillationParams(kind), None)[0]
    p = np.exp(log_softmax(logits))
    variance = (p * nudge**2).sum(-1) - (p * nudge).sum(-1) ** 2
    share = 0.25 if kind == "jensen_shannon" else 1.0
    np.testing.assert_allclose(backend.to_host(divergences), share * variance / 2, rtol=1e-3)


@pytest.mark.parametrize(("rows", "vocab", "n"), [(0, 3, 2), (1, 1, 1), (5, 17, 17), (300, 40, 33)])
def test_columns_are_taken_and_added_to(backend: Any, rows: int, vocab: int, n: int, rng: np.random.Generator) -> None:
    x, columns, values = rng.normal(size=(rows, vocab)), rng.permutation(vocab)[:n].astype(np.int32), np.ones((rows, n))
    (taken,) = assert_agrees(backend, "take_columns", x, columns, tolerance=0)
    np.testing.assert_array_equal(taken, x.astype(np.float32)[:, columns])
    changed = on(backend, x)
    backend.add_to_columns(changed, on(backend, columns), on(backend, values))
    expected = x.astype(np.float32)
    expected[:, columns] += 1
    np.testing.assert_array_equal(backend.to_host(changed), expected)


PARAMS = DistillationParams(alpha=0.5)
LOGITS, TEACHER = np.zeros((3, 5), np.float32), np.zeros((3, 5), np.float32)
IDS, TAIL, TARGETS = np.zeros((3, 2), np.int32), np.zeros(3, np.float32), np.zeros(3, np.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teacher": np.zeros((2, 5), np.float32)}, r"a teacher's \(2, 5\) for logits \(3, 5\)"),
        ({"teacher": np.zeros((3, 6), np.float32)}, r"a teacher's \(3, 6\) for logits"),
        ({"teacher": np.zeros((3, 0), np.float32)}, r"a teacher's \(3, 0\) for logits"),
        ({"teacher": np.zeros(3, np.float32)}, r"a teacher's \(3,\) for logits"),
        ({"teacher": np.zeros((3, 5))}, "float32, not float64"),
        ({"targets": np.zeros(2, np.int32)}, r"\(2,\) targets do not fit"),
        ({"targets": np.full(3, 5, np.int32)}, r"leave the range 0 \.\.\. 4"),
        ({"targets": np.full(3, -1, np.int32)}, "leave the range"),
        ({"targets": None}, "needs targets"),
        ({"weights": np.zeros(2, np.float32)}, "a vector of 3"),
        ({"logits": np.zeros((5, 3), np.float32).T}, "changed in place"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    backend = CpuBackend(1)
    arguments = {"logits": LOGITS.copy(), "teacher": TEACHER, "targets": TARGETS, "weights": None}
    with pytest.raises(ValueError, match=message):
        backend.distillation(**(arguments | change), params=PARAMS, scale=1.0)
    backend.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": np.zeros((2, 2), np.int32)}, r"ids \(2, 2\) of 5 tokens for logits \(3, 5\)"),
        ({"ids": np.zeros(3, np.int32)}, r"ids \(3,\) of 5"),
        ({"ids": np.zeros((3, 0), np.int32)}, r"ids \(3, 0\)"),
        ({"ids": np.zeros((3, 6), np.int32)}, r"ids \(3, 6\)"),
        ({"n": 6}, "of 6 tokens"),
        ({"n": 1}, "of 1 tokens"),
        ({"ids": np.full((3, 2), 5, np.int32)}, r"leave the range 0 \.\.\. 4"),
        ({"ids": np.full((3, 2), -1, np.int32)}, "leave the range"),
        ({"ids": np.full((3, 2), 4, np.int32), "n": 4}, r"leave the range 0 \.\.\. 3"),
        ({"values": np.zeros((3, 1), np.float32)}, "differ"),
        ({"log_tail": np.zeros(2, np.float32)}, "a vector of 3"),
        ({"logits": np.zeros((5, 3), np.float32).T}, "changed in place"),
    ],
)
def test_known_tokens_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    backend = CpuBackend(1)
    arguments = {"logits": LOGITS.copy(), "ids": IDS, "values": TEACHER[:, :2], "log_tail": TAIL, "n": 5}
    rest = {"targets": TARGETS, "weights": None, "params": PARAMS, "scale": None}
    with pytest.raises(ValueError, match=message):
        backend.distillation_top_k(**(arguments | change), **rest)
    backend.close()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"temperature": -1.0}, {"alpha": -0.1}, {"alpha": 1.1}, {"beta": 0.0}, {"beta": 1.0}],
)
def test_settings_without_a_meaning_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="are needed"):
        DistillationParams(**wrong)  # type: ignore[arg-type]

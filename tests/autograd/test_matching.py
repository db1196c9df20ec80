"""Matching hidden states and attention maps: closed forms, limits, and what they refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise
from entrenar_core.autograd.ops.matching import HiddenLoss, attention_match, hidden_match
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError
from tests.autograd.distillation_cases import LOWER, QUERIES

Array = np.ndarray
DOUBLE = ReferenceBackend(np.float64)
STUDENT = np.array([[1.0, 0.0, 2.0, -1.0], [3.0, 4.0, 0.0, 0.0]])
TARGET = np.array([[0.0, 0.0, 2.0, 1.0], [4.0, 3.0, 0.0, 0.0]])


def matched(
    student: Array, target: Array, kind: HiddenLoss, scale: float = 1.0, factor: float = 1.0, backend: Any = DOUBLE
) -> tuple[float, Array]:
    """The loss, and its gradient times a factor."""
    tensor = Tensor(backend.asarray(student), backend, requires_grad=True)
    with Tape() as tape:
        total = hidden_match(tensor, backend.asarray(target), kind, scale)
        scaled = elementwise.scale(total, factor)
    tape.backward(scaled)
    assert (total.data.dtype, total.shape) == (np.float64, ())
    return float(total.data), backend.to_host(tensor.grad)


def test_mse_is_the_sum_over_rows_of_the_mean_square() -> None:
    total, grad = matched(STUDENT, TARGET, "mse", scale=0.5, factor=3.0)
    assert total == 0.5 * ((1 + 4) / 4 + (1 + 1) / 4)
    np.testing.assert_allclose(grad, 3 * 0.5 * 2 / 4 * (STUDENT - TARGET))


def test_cosine_is_one_minus_the_cosine_of_the_angle() -> None:
    total, grad = matched(STUDENT, TARGET, "cosine", scale=0.5)
    first, second = 3 / np.sqrt(6 * 5), 24 / 25
    assert total == pytest.approx(0.5 * (2 - first - second), rel=1e-14)
    np.testing.assert_allclose(grad[1], 0.5 * (-TARGET[1] / 25 + second * STUDENT[1] / 25), rtol=1e-14)
    np.testing.assert_allclose((grad * STUDENT).sum(-1), 0, atol=1e-15, err_msg="it only turns")


def test_the_length_of_a_row_does_not_matter_to_the_cosine() -> None:
    lengths = np.array([[3.0], [1e-3]])
    one, once = matched(STUDENT, TARGET, "cosine")
    other, twice = matched(STUDENT * lengths, TARGET / lengths, "cosine")
    assert one == pytest.approx(other, rel=1e-13)
    np.testing.assert_allclose(twice, once / lengths, rtol=1e-12)


def test_a_row_of_zeros_has_no_direction() -> None:
    zero = STUDENT.copy()
    zero[0] = 0
    for student, target in ((zero, TARGET), (STUDENT, np.where(np.arange(2)[:, None] == 0, 0, TARGET))):
        total, grad = matched(student, target, "cosine")
        assert total == pytest.approx(1 + 1 - 24 / 25)
        np.testing.assert_array_equal(grad[0], np.zeros(4))
        assert np.isfinite(grad).all()


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_equal_states_match(kind: HiddenLoss, cpu: CpuBackend) -> None:
    total, grad = matched(STUDENT, STUDENT, kind, backend=cpu)
    assert abs(total) < 1e-15
    np.testing.assert_allclose(grad, 0, atol=1e-8)
    assert grad.dtype == np.float32


@pytest.mark.parametrize("kind", ["mse", "cosine"])
def test_many_rows_are_summed_in_float64(kind: HiddenLoss, cpu: CpuBackend) -> None:
    rows = 100_001
    student = np.zeros((rows, 2), np.float32)
    student[:, 0] = 1.0
    target = student[:, ::-1].copy()
    total, _ = matched(student, target, kind, backend=cpu)
    assert total == rows


def attend(
    student: tuple[Array, Array],
    teacher: tuple[Array, Array],
    *,
    lower: Array = LOWER,
    rows: Array = QUERIES,
    factor: float = 1.0,
    scales: tuple[float, float] = (0.7, 0.9),
    backend: Any = DOUBLE,
) -> tuple[float, Array, Array]:
    """The loss, and the gradients of queries and keys times a factor."""
    q, k = (Tensor(backend.asarray(each), backend, requires_grad=True) for each in student)
    with Tape() as tape:
        total = attention_match(q, k, *(backend.asarray(each) for each in teacher), lower, rows, *scales, 0.25)
        scaled = elementwise.scale(total, factor)
    tape.backward(scaled)
    assert (total.data.dtype, total.shape) == (np.float64, ())
    return float(total.data), backend.to_host(q.grad), backend.to_host(k.grad)


def heads(n_heads: int, n_kv: int, width: int = 2, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((2, 5, n_heads, width)), rng.standard_normal((2, 5, n_kv, width))


def test_one_query_by_hand() -> None:
    """The second position sees two keys: A = softmax(0, log 3) against (1/2, 1/2)."""
    q, k = np.zeros((1, 3, 1, 1)), np.zeros((1, 3, 1, 1))
    q[0, 1], k[0, 1] = 1.0, np.log(3)
    only, all_seen = np.array([[False, True, False]]), np.zeros((1, 3), np.int32)
    total, dq, dk = attend((q, k), (q * 0, k), lower=all_seen, rows=only, scales=(1.0, 1.0))
    assert total == pytest.approx(0.25 * 0.5 * (np.log(0.5 / 0.25) + np.log(0.5 / 0.75)), rel=1e-12)
    np.testing.assert_allclose(dk[0, :, 0, 0], 0.25 * np.array([-0.25, 0.25, 0.0]), atol=1e-15)
    np.testing.assert_allclose(dq[0, :, 0, 0], 0.25 * np.array([0.0, 0.25 * np.log(3), 0.0]), atol=1e-15)


@pytest.mark.parametrize(("n_heads", "n_kv"), [(4, 4), (4, 2), (3, 1)])
@pytest.mark.parametrize("on", ["double", "cpu"])
def test_equal_heads_match(n_heads: int, n_kv: int, on: str, request: pytest.FixtureRequest) -> None:
    backend, same = request.getfixturevalue(on), heads(n_heads, n_kv)
    total, dq, dk = attend(same, same, scales=(0.7, 0.7), backend=backend)
    assert 0 <= total < 1e-12
    for grad in (dq, dk):
        np.testing.assert_allclose(grad, 0, atol=1e-6)


def test_repeated_heads_have_the_mean_map_of_one() -> None:
    """Heads that all look the same way are compared, by their mean, as if there were one of them."""
    q, k = heads(1, 1)
    teacher = heads(1, 1, width=3, seed=1)
    one, dq, dk = attend((q, k), teacher)
    several, dq_each, dk_all = attend((np.repeat(q, 4, axis=2), k), teacher)
    assert several == pytest.approx(one, rel=1e-12)
    np.testing.assert_allclose(dq_each.sum(axis=2, keepdims=True), dq, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(dk_all, dk, rtol=1e-9, atol=1e-15)
    teachers, dq_too, _ = attend((q, k), tuple(np.repeat(each, 2, axis=2) for each in teacher))
    assert teachers == pytest.approx(one, rel=1e-12)
    np.testing.assert_allclose(dq_too, dq, rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("teacher_heads", [4, 2])
def test_heads_that_look_elsewhere_for_certain_do_not_overflow(teacher_heads: int, cpu: CpuBackend) -> None:
    q, k = heads(4, 2)
    total, dq, dk = attend((10 * q, k), heads(teacher_heads, 1, seed=1), scales=(1e2, 1.0), backend=cpu)
    truth, dq_truth, dk_truth = attend((10 * q, k), heads(teacher_heads, 1, seed=1), scales=(1e2, 1.0))
    assert total == pytest.approx(truth, rel=1e-5)
    np.testing.assert_allclose(dq, dq_truth, rtol=1e-3, atol=1e-3 * np.abs(dq_truth).max())
    np.testing.assert_allclose(dk, dk_truth, rtol=1e-3, atol=1e-3 * np.abs(dk_truth).max())


@pytest.mark.parametrize("teacher_heads", [4, 2])
def test_only_the_positions_that_count_and_what_they_see_get_a_gradient(teacher_heads: int) -> None:
    student, teacher = heads(4, 2), heads(teacher_heads, 2, seed=1)
    whole, dq, dk = attend(student, teacher)
    assert (np.abs(dq[~QUERIES]) == 0).all()
    assert (np.abs(dq).sum(axis=(2, 3))[QUERIES & (np.arange(5) > LOWER)] > 0).all()
    np.testing.assert_array_equal(dq[np.arange(5) == LOWER], 0, err_msg="who sees one key has no choice")
    np.testing.assert_array_equal(dk[1, 0], 0, err_msg="no one that counts sees it")
    parts = [np.zeros_like(QUERIES) for _ in range(2)]
    parts[0][0], parts[1][1] = QUERIES[0], QUERIES[1]
    results = [attend(student, teacher, rows=part) for part in parts]
    assert sum(total for total, *_ in results) == pytest.approx(whole, rel=1e-12)
    np.testing.assert_allclose(sum(grad for _, grad, _ in results), dq, rtol=1e-12)
    assert attend(student, teacher, rows=np.zeros_like(QUERIES))[0] == 0


def test_what_may_not_be_seen_does_not_matter() -> None:
    student, teacher = heads(4, 2), heads(4, 1, seed=1)
    expected = attend(student, teacher)
    changed = student[1].copy()
    changed[1, 0] = 1e6
    actual = attend((student[0], changed), teacher)
    assert actual[0] == pytest.approx(expected[0], rel=1e-12)
    np.testing.assert_allclose(actual[1], expected[1], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("teacher_heads", [4, 2])
def test_an_upstream_factor_scales_the_gradients(teacher_heads: int) -> None:
    student, teacher = heads(4, 2), heads(teacher_heads, 2, seed=1)
    once, thrice = attend(student, teacher), attend(student, teacher, factor=3.0)
    for one, other in zip(once[1:], thrice[1:], strict=True):
        np.testing.assert_allclose(other, 3 * one, rtol=1e-14)


@pytest.mark.parametrize("teacher_heads", [4, 2])
def test_without_a_tape_the_value_is_the_same(teacher_heads: int) -> None:
    student, teacher = heads(4, 2), heads(teacher_heads, 2, seed=1)
    q, k = (Tensor(each, DOUBLE) for each in student)
    total = attention_match(q, k, *teacher, LOWER, QUERIES, 0.7, 0.9, 0.25)
    assert float(total.data) == pytest.approx(attend(student, teacher)[0], rel=1e-12)
    assert not total.requires_grad


def test_states_of_another_shape_are_refused() -> None:
    for student, target in (((2, 3), (2, 4)), ((2, 3), (3, 3)), ((2, 3, 4), (2, 3, 4))):
        with pytest.raises(AutogradError, match=r"hidden states \(2, 3.*\) cannot match those of shape"):
            hidden_match(Tensor(np.ones(student), DOUBLE), np.ones(target), "mse", 1.0)


@pytest.mark.parametrize(
    "change",
    [
        {"q": (2, 5, 3, 2)},  # heads are no multiple of the kv heads
        {"q": (2, 5, 4, 3)},
        {"q": (2, 4, 4, 2)},
        {"k": (1, 5, 2, 2)},
        {"k": (2, 5, 2)},
        {"teacher_q": (2, 4, 4, 2), "teacher_k": (2, 4, 2, 2)},
        {"teacher_q": (1, 5, 4, 2), "teacher_k": (1, 5, 2, 2)},
        {"teacher_q": (2, 5, 3, 2)},
        {"teacher_k": (2, 5, 2, 3)},
        {"lower": (2, 4)},
        {"rows": (5,)},
    ],
)
def test_shapes_that_do_not_fit_are_refused(change: dict[str, tuple[int, ...]]) -> None:
    shapes = {"q": (2, 5, 4, 2), "k": (2, 5, 2, 2), "teacher_q": (2, 5, 4, 2), "teacher_k": (2, 5, 2, 2)}
    shapes |= {"lower": (2, 5), "rows": (2, 5)} | change
    arrays = {name: np.zeros(shape) for name, shape in shapes.items()}
    q, k = (Tensor(arrays.pop(name), DOUBLE) for name in ("q", "k"))
    with pytest.raises(AutogradError, match=r"attention match: q .* do not fit"):
        attention_match(q, k, **arrays, softmax_scale=1.0, teacher_softmax_scale=1.0, scale=1.0)

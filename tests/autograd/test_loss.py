"""Cross-entropy: closed forms, ignored labels, and the chunked fused one equal to the plain one. Squared error."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise, loss, matmul
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.data.batch import IGNORE

Array = np.ndarray
ROWS, WIDTH, VOCAB = 13, 4, 7
LABELS = np.array([0, 6, -100, 3, 3, -1, 0, 6, 5, 2, -100, 1, 4], np.int32)


def problem(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((ROWS, WIDTH)), rng.standard_normal((VOCAB, WIDTH))


def fused(
    backend: ReferenceBackend, labels: Array = LABELS, *, frozen: bool = False, factor: float = 1.0, **options: int
) -> tuple[Array, ...]:
    """Loss and gradients of hidden states and matrix (unless it is frozen)."""
    hidden, weight = (Tensor(backend.asarray(x), backend, requires_grad=True) for x in problem())
    operand = backend.prepare_weight(weight.data) if frozen else weight
    with Tape() as tape:
        total = elementwise.scale(loss.linear_cross_entropy(hidden, operand, labels, 0.25, **options), factor)
    tape.backward(total)
    assert total.data.dtype == np.float64
    return (total.data, hidden.grad) if frozen else (total.data, hidden.grad, weight.grad)


def plain(backend: ReferenceBackend, labels: Array = LABELS) -> tuple[Array, ...]:
    """The same through the full logits."""
    hidden, weight = (Tensor(backend.asarray(x), backend, requires_grad=True) for x in problem())
    with Tape() as tape:
        total = loss.cross_entropy(matmul.linear(hidden, weight), labels, 0.25)
    tape.backward(total)
    return total.data, hidden.grad, weight.grad


def test_cross_entropy_is_minus_the_log_of_the_softmax(double: ReferenceBackend) -> None:
    logits = problem()[0]
    labels = np.array([3, -100, 0, *[-100] * 10], np.int32)
    total = loss.cross_entropy(Tensor(logits, double), labels, 0.5)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(total.data, -0.5 * (log_p[0, 3] + log_p[2, 0]), rtol=1e-14)
    assert total.data.dtype == np.float64
    assert total.shape == ()


def test_the_gradient_is_softmax_minus_one_hot_on_supervised_rows(double: ReferenceBackend) -> None:
    logits = Tensor(problem()[0], double, requires_grad=True)
    before = logits.data.copy()
    labels = np.array([3, -100, 0, *[-100] * 10], np.int32)
    with Tape() as tape:
        total = loss.cross_entropy(logits, labels, 0.5)
    tape.backward(total, np.array(3.0))
    expected = np.zeros_like(before)
    softmax = np.exp(before) / np.exp(before).sum(-1, keepdims=True)
    for row, label in ((0, 3), (2, 0)):
        expected[row] = softmax[row]
        expected[row, label] -= 1
    np.testing.assert_allclose(logits.grad, 1.5 * expected, rtol=1e-12, atol=1e-16)
    np.testing.assert_array_equal(logits.data, before)


def test_equal_logits_cost_the_log_of_the_vocabulary(double: ReferenceBackend) -> None:
    total = loss.cross_entropy(Tensor(np.zeros((3, VOCAB)), double), np.array([0, 3, VOCAB - 1], np.int32), 1 / 3)
    np.testing.assert_allclose(total.data, np.log(VOCAB))


def test_many_losses_are_summed_in_float64(cpu: CpuBackend) -> None:
    rows = 1001
    labels = np.zeros(rows, np.int32)
    one = np.float64(np.log(np.float32(3.0)))
    hidden, matrix = Tensor(cpu.zeros((rows, 1)), cpu), Tensor(cpu.zeros((3, 1)), cpu)
    for total in (
        loss.cross_entropy(Tensor(cpu.zeros((rows, 3)), cpu), labels, 1.0),
        loss.linear_cross_entropy(hidden, matrix, labels, 1.0, rows_per_chunk=1000),
    ):
        assert total.data.dtype == np.float64
        np.testing.assert_allclose(total.data, rows * one, rtol=1e-12)


def test_huge_logits_do_not_overflow(double: ReferenceBackend) -> None:
    total = loss.cross_entropy(Tensor(np.array([[1e4, 0.0, -1e4]]), double), np.array([1], np.int32), 1.0)
    np.testing.assert_allclose(total.data, 1e4)


@pytest.mark.parametrize("rows_per_chunk", [1, 2, 3, 5, 9, 10, 11, 100])
@pytest.mark.parametrize("on", ["double", "cpu"])
def test_the_fused_loss_equals_the_plain_one_for_any_chunk(
    on: str, rows_per_chunk: int, request: pytest.FixtureRequest
) -> None:
    backend = request.getfixturevalue(on)
    tolerance = 1e-12 if on == "double" else 2e-6
    for actual, expected in zip(fused(backend, rows_per_chunk=rows_per_chunk), plain(backend), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)


def test_without_a_chunk_size_one_is_chosen(double: ReferenceBackend) -> None:
    for actual, expected in zip(fused(double), plain(double), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


def test_a_frozen_matrix_gives_the_same_loss_and_hidden_gradient(double: ReferenceBackend) -> None:
    for actual, expected in zip(fused(double, frozen=True, rows_per_chunk=3), plain(double), strict=False):
        np.testing.assert_allclose(actual, expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("frozen", [False, True])
def test_an_upstream_factor_scales_every_gradient(frozen: bool, double: ReferenceBackend) -> None:
    for once, thrice in zip(fused(double, frozen=frozen), fused(double, frozen=frozen, factor=3.0), strict=True):
        np.testing.assert_allclose(thrice, 3 * once, rtol=1e-14)


def test_only_the_matrix_is_trained(double: ReferenceBackend) -> None:
    states, matrix = problem()
    hidden, weight = Tensor(states, double), Tensor(matrix, double, requires_grad=True)
    with Tape() as tape:
        total = loss.linear_cross_entropy(hidden, weight, LABELS, 0.25)
    tape.backward(total)
    np.testing.assert_array_equal(weight.grad, fused(double)[2])


def test_without_a_tape_the_value_is_the_same(double: ReferenceBackend) -> None:
    states, matrix = problem()
    total = loss.linear_cross_entropy(Tensor(states, double), Tensor(matrix, double), LABELS, 0.25)
    assert not total.requires_grad
    np.testing.assert_array_equal(total.data, fused(double)[0])


@pytest.mark.parametrize("on", ["double", "cpu"])
def test_no_supervised_row_is_no_loss_and_no_gradient(on: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue(on)
    nothing = np.full(ROWS, IGNORE, np.int32)
    for results in (fused(backend, nothing), plain(backend, nothing)):
        for result in results:
            np.testing.assert_array_equal(result, np.zeros_like(result))


def test_any_negative_label_is_ignored_and_the_last_of_the_vocabulary_is_not(double: ReferenceBackend) -> None:
    labels = np.where(LABELS < 0, -7, LABELS).astype(np.int32)
    np.testing.assert_array_equal(fused(double, labels)[0], fused(double)[0])
    without_last = np.where(LABELS == VOCAB - 1, -100, LABELS).astype(np.int32)
    assert fused(double, without_last)[0] < fused(double)[0]


def test_a_label_beyond_the_vocabulary_is_refused(cpu: CpuBackend, double: ReferenceBackend) -> None:
    labels = np.where(LABELS == VOCAB - 1, VOCAB, LABELS).astype(np.int32)
    with pytest.raises(ValueError, match=r"leave the range 0 \.\.\. 6"):
        fused(cpu, labels)
    with pytest.raises(IndexError):
        fused(double, labels)


@pytest.mark.parametrize(("vocab", "rows"), [(32_000, 131), (128_256, 32), (1 << 20, 16), (2, 2 << 20)])
def test_a_chunk_of_logits_fits_a_cache_and_has_enough_rows_for_a_fast_product(
    cpu: CpuBackend, vocab: int, rows: int
) -> None:
    assert cpu.loss_rows(vocab, None) == rows


@pytest.mark.parametrize(("vocab", "rows"), [(32_000, 524), (1 << 20, 128)])
def test_a_matrix_in_blocks_is_decoded_for_more_rows_at_a_time(cpu: CpuBackend, vocab: int, rows: int) -> None:
    packed = PackedMatrix(np.zeros((4, 18), np.uint8), "Q4_0")
    assert cpu.loss_rows(vocab, cpu.prepare_packed(packed)) == rows


def test_the_chunked_loss_never_holds_all_logits(cpu: CpuBackend) -> None:
    rows, width, vocab = 96, 8, 1024
    rng = np.random.default_rng(0)
    hidden = Tensor(cpu.asarray(rng.standard_normal((rows, width))), cpu, requires_grad=True)
    weight = cpu.prepare_weight(cpu.asarray(rng.standard_normal((vocab, width))))
    labels = rng.integers(0, vocab, rows).astype(np.int32)
    cpu.pool.reset_peak()
    held = cpu.pool.statistics().in_use
    with Tape() as tape:
        total = loss.linear_cross_entropy(hidden, weight, labels, 1 / rows, rows_per_chunk=8)
    tape.backward(total)
    assert cpu.pool.statistics().peak - held < 3 * 8 * vocab * 4 < rows * vocab * 4


@pytest.mark.parametrize("on", ["double", "cpu"])
def test_squared_error_is_the_scaled_sum_of_squares(on: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue(on)
    predictions = Tensor(backend.asarray(np.array([1.0, -2.0, 0.5])), backend, requires_grad=True)
    with Tape() as tape:
        total = loss.squared_error(predictions, np.array([0.0, -2.0, 2.5]), 0.25)
    tape.backward(total, np.array(3.0))
    assert (float(total.data), total.data.dtype, total.shape) == (0.25 * (1 + 4), np.float64, ())
    np.testing.assert_array_equal(predictions.grad, 3 * 0.25 * 2 * np.array([1.0, 0.0, -2.0]))


def test_squares_are_summed_in_float64(cpu: CpuBackend) -> None:
    errors = np.array([2.0**12, *[1.0] * 1000])
    total = loss.squared_error(Tensor(cpu.asarray(errors), cpu), np.zeros(1001), 1.0)
    assert float(total.data) == 2.0**24 + 1000

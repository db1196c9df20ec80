"""One test body for each kernel, on every backend, held against the float64 reference: memory, products, row kernels.

Attention, optimizers and laws have files of their own (`test_backends_attention`, `..._optimizers`, `..._laws`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.parameters import DropoutKey, splitmix64
from tests.backend.agreement import TRUTH, assert_agrees, assert_close, call, on

ROWS = [(1, 1), (1, 33), (2, 8), (3, 7), (5, 64), (17, 129), (64, 65), (301, 250), (1037, 48)]
"""[M, D]: single rows and columns, odd sizes, and enough rows for every thread, with a remainder."""

FLAT = [(1,), (3,), (7, 5), (2, 3, 4), (33, 129), (262_147,)]


# memory


def test_empty_and_zeros_have_the_shape_and_dtype_asked_for(backend: Any) -> None:
    assert backend.empty((3, 5)).shape == (3, 5)
    assert backend.empty((3, 5)).dtype == backend.dtype
    assert backend.empty((0, 5)).shape == (0, 5)
    zeros = backend.zeros((70, 90), np.int32)
    assert zeros.dtype == np.int32
    assert not backend.to_host(zeros).any()


def test_zeros_are_zero_in_memory_that_was_used_before(backend: Any) -> None:
    used = backend.empty((50, 60))
    used[...] = 7
    del used
    assert not backend.to_host(backend.zeros((50, 60))).any()


def test_host_values_go_there_and_back(backend: Any) -> None:
    floats = backend.asarray(np.arange(6, dtype=np.float64).reshape(2, 3).T)
    assert floats.dtype == backend.dtype
    assert floats.flags.c_contiguous
    np.testing.assert_array_equal(backend.to_host(floats), [[0, 3], [1, 4], [2, 5]])
    assert backend.asarray(np.arange(3, dtype=np.int32)).dtype == np.int32
    assert backend.asarray([1.0, 2.0], np.float64).dtype == np.float64


# elementwise


@pytest.mark.parametrize("shape", FLAT)
def test_elementwise(backend: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    a, b = rng.normal(size=shape), rng.normal(size=shape)
    assert_agrees(backend, "add", a, b)
    assert_agrees(backend, "multiply", a, b)
    assert_agrees(backend, "scale", a, -0.37)


@pytest.mark.parametrize("place", ["first", "second", "fresh"])
def test_elementwise_out_may_be_an_argument(backend: Any, place: str, rng: np.random.Generator) -> None:
    values = rng.normal(size=(2, 9, 31))
    for kernel in ("add", "multiply"):
        a, b = on(backend, values[0]), on(backend, values[1])
        out = {"first": a, "second": b, "fresh": backend.empty((9, 31))}[place]
        assert getattr(backend, kernel)(a, b, out=out) is out
        assert_close(backend.to_host(out), call(TRUTH, kernel, *values)[0], 1e-6)
    a = on(backend, values[0])
    assert backend.scale(a, 3.0, out=a) is a
    assert_close(backend.to_host(a), 3 * values[0], 1e-6)


# matrix products

PRODUCTS = [(1, 1, 1), (1, 64, 33), (5, 3, 7), (33, 17, 65), (128, 96, 200), (257, 130, 3), (530, 40, 600)]
"""M, inner, N."""


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (-1.5, 0.0), (1.0, 1.0), (0.5, -2.0), (0.0, 1.0)])
@pytest.mark.parametrize("transposed", ["neither", "a", "b", "both"])
@pytest.mark.parametrize("size", PRODUCTS)
def test_gemm(
    backend: Any, size: tuple[int, int, int], transposed: str, alpha: float, beta: float, rng: np.random.Generator
) -> None:
    m, inner, n = size
    a, b, c = (
        np.float32(rng.normal(size=(m, inner))),
        np.float32(rng.normal(size=(inner, n))),
        np.float32(rng.normal(size=(m, n))),
    )
    there_a = on(backend, a.T).T if transposed in ("a", "both") else on(backend, a)
    there_b = on(backend, b.T).T if transposed in ("b", "both") else on(backend, b)
    out = on(backend, c)
    assert backend.gemm(there_a, there_b, out, alpha=alpha, beta=beta) is out
    product = a.astype(np.float64) @ b.astype(np.float64)
    size_of_terms = abs(alpha) * np.abs(product).max() + abs(beta) * np.abs(c).max()
    expected = alpha * product + beta * c
    assert np.abs(backend.to_host(out) - expected).max() <= 2e-6 * size_of_terms


def test_gemm_makes_its_own_output(backend: Any, rng: np.random.Generator) -> None:
    assert_agrees(backend, "gemm", rng.normal(size=(9, 5)), rng.normal(size=(5, 4)), alpha=0.5)


def test_gemm_takes_strided_views_and_writes_into_one(backend: Any, rng: np.random.Generator) -> None:
    a, b, c = rng.normal(size=(9, 24)), rng.normal(size=(10, 24)), rng.normal(size=(9, 31))
    out = on(backend, c)
    block = out[:, 4:14]
    backend.gemm(on(backend, a)[:, 3:20], on(backend, b)[:, 5:22].T, block, alpha=2.0, beta=1.0)
    expected = c.copy()
    expected[:, 4:14] += 2 * a[:, 3:20] @ b[:, 5:22].T
    assert_close(backend.to_host(out), expected, 2e-6)


def test_gemm_takes_views_with_steps_between_elements(backend: Any, rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(8, 12)), rng.normal(size=(12, 10))
    product = backend.gemm(on(backend, a)[::2, ::3], on(backend, b)[::3, ::-1])
    assert_close(backend.to_host(product), a[::2, ::3] @ b[::3, ::-1], 2e-6)


def test_gemm_with_beta_zero_does_not_read_the_output(backend: Any, rng: np.random.Generator) -> None:
    a, out = rng.normal(size=(6, 6)), backend.asarray(np.full((6, 6), np.nan))
    assert_close(backend.to_host(backend.gemm(on(backend, a), on(backend, a), out)), a @ a, 2e-6)


@pytest.mark.parametrize("inner", [0, 5])
@pytest.mark.parametrize("m", [0, 3])
def test_gemm_of_nothing(backend: Any, m: int, inner: int) -> None:
    product = backend.gemm(backend.zeros((m, inner)), backend.zeros((inner, 4)))
    assert product.shape == (m, 4)
    assert not backend.to_host(product).any()


def test_gemm_keeps_nan_where_it_belongs(backend: Any) -> None:
    a = np.ones((4, 8))
    a[2, 3] = np.nan
    assert_agrees(backend, "gemm", a, np.ones((8, 5)))


@pytest.mark.parametrize("n_rows", [0, 1, 7, 130])
def test_linear_and_its_input_gradient(backend: Any, n_rows: int, rng: np.random.Generator) -> None:
    x, weight, dy = rng.normal(size=(n_rows, 40)), rng.normal(size=(67, 40)), rng.normal(size=(n_rows, 67))
    handle = backend.prepare_weight(on(backend, weight))
    assert tuple(handle.shape) == (67, 40)
    assert handle.n_bytes == 67 * 40 * np.dtype(backend.dtype).itemsize
    y, dx = backend.linear(on(backend, x), handle), backend.linear_input_grad(on(backend, dy), handle)
    assert y.dtype == dx.dtype == backend.dtype
    assert_close(backend.to_host(y), x @ weight.T, 2e-6)
    assert_close(backend.to_host(dx), dy @ weight, 2e-6)


# normalisation


@pytest.mark.parametrize("shape", ROWS)
def test_rms_norm(backend: Any, shape: tuple[int, int], rng: np.random.Generator) -> None:
    x, dy = rng.normal(size=shape), rng.normal(size=shape)
    weight = rng.normal(size=shape[1])
    _, inv_rms = assert_agrees(backend, "rms_norm", x, weight, 1e-5)
    assert_agrees(backend, "rms_norm_backward", dy, x, weight, inv_rms, True, terms=inv_rms.max())
    assert_agrees(backend, "rms_norm_backward", dy, x, weight, inv_rms, False, terms=inv_rms.max())


@pytest.mark.parametrize("shape", ROWS)
def test_layer_norm(backend: Any, shape: tuple[int, int], rng: np.random.Generator) -> None:
    x, dy = rng.normal(size=shape), rng.normal(size=shape)
    gamma, beta = rng.normal(size=shape[1]), rng.normal(size=shape[1])
    _, mean, inv_std = assert_agrees(backend, "layer_norm", x, gamma, beta, 0.1)
    assert_agrees(backend, "layer_norm_backward", dy, x, gamma, mean, inv_std, terms=inv_std.max())


def test_layer_norm_of_a_row_far_from_zero(backend: Any, rng: np.random.Generator) -> None:
    x = rng.normal(size=(5, 64)) + 300
    assert_agrees(backend, "layer_norm", x, np.ones(64), np.zeros(64), 1e-5, tolerance=1e-4)  # 300 has 3e-5 of rounding


@pytest.mark.parametrize("size", [1e-6, 1e4])
def test_norms_of_tiny_and_large_rows(backend: Any, size: float, rng: np.random.Generator) -> None:
    x, ones = size * rng.normal(size=(3, 40)), np.ones(40)
    assert_agrees(backend, "rms_norm", x, ones, 1e-6)
    assert_agrees(backend, "layer_norm", x, ones, np.zeros(40), 1e-6)


def test_norms_of_no_rows(backend: Any) -> None:
    x, ones = np.zeros((0, 8)), np.ones(8)
    _, inv_rms = assert_agrees(backend, "rms_norm", x, ones, 1e-6)
    assert_agrees(backend, "rms_norm_backward", x, x, ones, inv_rms, True)
    _, mean, inv_std = assert_agrees(backend, "layer_norm", x, ones, ones, 1e-6)
    assert_agrees(backend, "layer_norm_backward", x, x, ones, mean, inv_std)


def test_nan_stays_in_its_row_of_a_norm(backend: Any, rng: np.random.Generator) -> None:
    x, ones = rng.normal(size=(9, 40)), np.ones(40)
    x[4, 17] = np.nan
    x[6, 3] = np.inf
    with np.errstate(invalid="ignore"):
        assert_agrees(backend, "rms_norm", x, ones, 1e-6)
        assert_agrees(backend, "layer_norm", x, ones, ones, 1e-6)


# activations and softmax


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("shape", [*FLAT, (0, 5)])
def test_activation(backend: Any, kind: str, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x, dy = 3 * rng.normal(size=shape), rng.normal(size=shape)
    assert_agrees(backend, "activation", kind, x)
    assert_agrees(backend, "activation_backward", kind, dy, x)


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "silu"])
def test_activation_is_accurate_in_both_tails(backend: Any, kind: str) -> None:
    x = np.concatenate([np.linspace(-9, 9, 4001), [-1e4, -88.0, 0.0, 1e-30, 88.0, 1e4]])
    inner = np.abs(x) <= 9
    assert_agrees(backend, "activation", kind, x[inner], tolerance=1e-6)
    assert_agrees(backend, "activation_backward", kind, np.ones(inner.sum()), x[inner], tolerance=2e-6)
    assert_agrees(backend, "activation", kind, x[~inner])
    assert_agrees(backend, "activation_backward", kind, np.ones((~inner).sum()), x[~inner])


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "silu"])
def test_activation_keeps_nan_and_infinity(backend: Any, kind: str) -> None:
    x = np.tile([1.0, np.nan, np.inf, -2.0], 9)
    with np.errstate(invalid="ignore"):
        assert_agrees(backend, "activation", kind, x)


@pytest.mark.parametrize("shape", [*FLAT, (0, 5)])
def test_swiglu(backend: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    dy, gate, up = rng.normal(size=shape), 4 * rng.normal(size=shape), rng.normal(size=shape)
    assert_agrees(backend, "swiglu", gate, up)
    assert_agrees(backend, "swiglu_backward", dy, gate, up)


def test_swiglu_of_extreme_gates(backend: Any) -> None:
    gate, up = np.array([-1e4, -100.0, 100.0, 1e4, np.nan, 1.0]), np.array([1.0, 2.0, 3.0, -1.0, 1.0, np.nan])
    assert_agrees(backend, "swiglu", gate, up)
    assert_agrees(backend, "swiglu_backward", np.ones(6), gate, up)


@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize("shape", [*ROWS, (0, 5), (2, 32_001)])
def test_softmax(backend: Any, shape: tuple[int, int], spread: float, rng: np.random.Generator) -> None:
    x, dy = spread * rng.normal(size=shape), rng.normal(size=shape)
    (y,) = assert_agrees(backend, "softmax", x)
    assert_agrees(backend, "softmax_backward", dy, y, terms=1.0)


def test_softmax_of_infinite_and_nan_rows(backend: Any) -> None:
    x = np.zeros((5, 37))
    x[0] = -np.inf
    x[1, 5:] = -np.inf
    x[2, 36] = np.nan
    x[3, 0] = np.inf
    (y,) = assert_agrees(backend, "softmax", x)
    assert np.isnan(y[[0, 2]]).all()
    assert y[1, :5].tolist() == [0.2] * 5


# rope


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
@pytest.mark.parametrize(
    ("shape", "n_pairs"),
    [((1, 1, 1, 2), 1), ((2, 5, 3, 8), 4), ((2, 5, 3, 9), 3), ((3, 17, 5, 64), 32), ((1, 200, 4, 80), 20)],
)
def test_rope(
    backend: Any,
    shape: tuple[int, int, int, int],
    n_pairs: int,
    pairing: str,
    inverse: bool,
    rng: np.random.Generator,
) -> None:
    x, angles = rng.normal(size=shape), 10 * rng.normal(size=(*shape[:2], n_pairs))
    assert_agrees(backend, "rope", x, np.cos(angles), np.sin(angles), pairing, inverse)


# embedding, loss, dropout


@pytest.mark.parametrize(("n_tokens", "vocab", "width"), [(0, 5, 4), (1, 1, 1), (37, 11, 13), (700, 32_001, 24)])
def test_embedding(backend: Any, n_tokens: int, vocab: int, width: int, rng: np.random.Generator) -> None:
    table, dy = rng.normal(size=(vocab, width)), rng.normal(size=(n_tokens, width))
    ids = rng.integers(0, vocab, n_tokens).astype(np.int32)
    assert_agrees(backend, "embedding", table, ids)
    out, expected = on(backend, table), on(TRUTH, table)
    backend.embedding_backward(on(backend, dy), on(backend, ids), out)
    TRUTH.embedding_backward(on(TRUTH, dy), ids, expected)
    assert_close(backend.to_host(out), expected, 2e-6)


def test_embedding_gradient_of_one_token_many_times(backend: Any) -> None:
    out = backend.zeros((3, 70))
    backend.embedding_backward(backend.asarray(np.ones((999, 70))), backend.asarray(np.ones(999, np.int32)), out)
    np.testing.assert_array_equal(backend.to_host(out), [[0.0] * 70, [999.0] * 70, [0.0] * 70])


@pytest.mark.parametrize("spread", [1.0, 1e4])
@pytest.mark.parametrize("shape", [(0, 7), (1, 1), (1, 3), (5, 17), (130, 100), (3, 32_001)])
def test_cross_entropy(backend: Any, shape: tuple[int, int], spread: float, rng: np.random.Generator) -> None:
    logits, labels = spread * rng.normal(size=shape), rng.integers(0, shape[1], shape[0]).astype(np.int32)
    assert_agrees(backend, "cross_entropy", logits, labels, None)  # which also checks that logits are left alone
    gradient, expected = on(backend, logits), on(TRUTH, logits)
    losses = backend.cross_entropy(gradient, on(backend, labels), 0.125)
    assert_close(backend.to_host(losses), TRUTH.cross_entropy(expected, labels, 0.125), 2e-6, "losses")
    assert_close(backend.to_host(gradient), expected, 2e-6, "gradient")


def test_cross_entropy_of_infinite_and_nan_logits(backend: Any) -> None:
    logits = np.zeros((5, 37))
    logits[0] = -np.inf
    logits[1, 5:] = -np.inf
    logits[2, 5:] = -np.inf
    logits[3, 36] = np.nan
    labels = np.array([0, 4, 30, 0, 0], np.int32)
    losses = assert_agrees(backend, "cross_entropy", logits, labels, None)[0]
    assert np.isnan(losses[[0, 3]]).all()
    assert losses[1] == pytest.approx(np.log(5))
    assert losses[2] == np.inf


@pytest.mark.parametrize("p", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("shape", [*FLAT, (0, 5)])
def test_dropout_draws_the_same_mask_everywhere(
    backend: Any, shape: tuple[int, ...], p: float, rng: np.random.Generator
) -> None:
    x, key = rng.uniform(1, 2, shape), DropoutKey(seed=2**63 + 5, step=12, micro_batch=3, module=77)
    truth = call(TRUTH, "dropout", x, p, key)[0]
    actual = call(backend, "dropout", x, p, key)[0]
    np.testing.assert_array_equal(actual != 0, truth != 0)
    assert_close(actual, truth, 1e-6)
    assert p > 0 or (actual != 0).all()


@pytest.mark.parametrize("index", [0, 5])
def test_dropout_keeps_an_element_that_draws_exactly_the_threshold(backend: Any, index: int) -> None:
    key = DropoutKey(1, 2, 3, 4)
    drawn = splitmix64(key.mixed() + (index + 1) * 0x9E3779B97F4A7C15) >> 32
    assert call(backend, "dropout", np.ones(8), drawn / 2**32, key)[0][index] != 0
    assert call(backend, "dropout", np.ones(8), (drawn + 1) / 2**32, key)[0][index] == 0


def test_dropout_writes_zero_over_a_dropped_nan(backend: Any) -> None:
    assert_agrees(backend, "dropout", np.full((30, 30), np.nan), 0.5, DropoutKey(1, 2, 3, 4))


# reductions


@pytest.mark.parametrize("shape", [*FLAT, (0,)])
def test_sum_of_squares(backend: Any, shape: tuple[int, ...], rng: np.random.Generator) -> None:
    x = np.float32(rng.normal(size=shape))
    total = backend.sum_of_squares(on(backend, x))
    assert isinstance(total, float)
    assert total == pytest.approx(float((x.astype(np.float64) ** 2).sum()), rel=1e-12)


def test_sum_of_squares_beyond_float32_and_of_nan(backend: Any) -> None:
    assert backend.sum_of_squares(backend.asarray(np.full(5000, 1e25))) == pytest.approx(5e53, rel=1e-6)
    assert np.isnan(backend.sum_of_squares(backend.asarray(np.array([1.0, np.nan]))))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("size", "index"), [(1, 0), (100, 99), (262_147, 0), (262_147, 131_000), (262_147, 262_146)])
def test_all_finite_finds_the_one_bad_element(backend: Any, size: int, index: int, bad: float) -> None:
    x = np.full(size, 3e38)
    assert backend.all_finite(on(backend, x)) is True
    x[index] = bad
    assert backend.all_finite(on(backend, x)) is False


def test_all_finite_of_nothing(backend: Any) -> None:
    assert backend.all_finite(backend.zeros((0, 4))) is True

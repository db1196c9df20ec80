"""The reference backend against hand-computed values: closed forms and tiny cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entrenar_core.backend.parameters import AdamParams, AttentionParams, DropoutKey, SGDParams, splitmix64
from entrenar_core.backend.reference import ReferenceBackend

DOUBLE = ReferenceBackend(np.float64)
CAUSAL = AttentionParams(scale=1.0)


def column(*values: float) -> np.ndarray:
    """One sequence of one head of one component: [1, T, 1, 1]."""
    return np.array(values, np.float64).reshape(1, -1, 1, 1)


def lower(*starts: int) -> np.ndarray:
    return np.array([starts], np.int32)


# memory and elementwise


def test_arrays_are_of_the_backends_dtype_unless_another_is_asked_for() -> None:
    single = ReferenceBackend()
    assert single.zeros((2, 3)).dtype == np.float32
    assert single.empty((2,), np.int32).dtype == np.int32
    assert single.asarray([1.5, 2.5]).dtype == np.float32
    assert single.asarray(np.arange(3, dtype=np.int32)).dtype == np.int32
    assert single.asarray([1.5], np.float64).dtype == np.float64
    assert single.asarray(1.5).shape == ()


def test_elementwise_results_may_go_into_an_argument() -> None:
    a, b = np.array([1.0, 2.0]), np.array([3.0, 4.0])
    assert DOUBLE.add(a, b, out=a) is a
    np.testing.assert_array_equal(a, [4.0, 6.0])
    np.testing.assert_array_equal(DOUBLE.multiply(a, b), [12.0, 24.0])
    np.testing.assert_array_equal(DOUBLE.scale(a, 0.5), [2.0, 3.0])


def test_a_numpy_scalar_factor_does_not_widen_float32() -> None:
    assert ReferenceBackend().scale(np.ones(2, np.float32), np.float64(0.1)).dtype == np.float32


# matrix products


def test_gemm_adds_to_a_scaled_output() -> None:
    a, b, out = np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]), np.array([[100.0]])
    assert DOUBLE.gemm(a, b, out, alpha=2.0, beta=0.5) is out
    assert out[0, 0] == 2 * 11 + 50


def test_gemm_with_beta_zero_never_reads_the_output() -> None:
    out = DOUBLE.gemm(np.eye(2), np.eye(2), np.full((2, 2), np.nan))
    np.testing.assert_array_equal(out, np.eye(2))


def test_a_prepared_weight_multiplies_transposed_and_knows_its_size() -> None:
    weight = DOUBLE.prepare_weight(np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))
    assert weight.shape == (2, 3)
    assert weight.n_bytes == 48
    np.testing.assert_array_equal(DOUBLE.linear(np.array([[1.0, 0.0, 1.0]]), weight), [[4.0, 10.0]])
    np.testing.assert_array_equal(DOUBLE.linear_input_grad(np.array([[1.0, 1.0]]), weight), [[5.0, 7.0, 9.0]])


# normalisation


def test_rms_norm_divides_by_the_root_mean_square() -> None:
    y, inv_rms = DOUBLE.rms_norm(np.array([[3.0, 4.0]]), np.array([1.0, 10.0]), 0.0)
    np.testing.assert_allclose(y, [[3 / math.sqrt(12.5), 40 / math.sqrt(12.5)]])
    np.testing.assert_allclose(inv_rms, [1 / math.sqrt(12.5)])


def test_layer_norm_centres_and_scales() -> None:
    y, mean, inv_std = DOUBLE.layer_norm(np.array([[1.0, 5.0]]), np.array([1.0, 3.0]), np.array([0.5, 0.0]), 0.0)
    np.testing.assert_allclose(y, [[-0.5, 3.0]])
    np.testing.assert_allclose([mean[0], inv_std[0]], [3.0, 0.5])


def test_norms_of_zeros_are_finite_through_epsilon() -> None:
    zeros, ones = np.zeros((1, 4)), np.ones(4)
    assert DOUBLE.rms_norm(zeros, ones, 1e-6)[1][0] == pytest.approx(1e3)
    np.testing.assert_array_equal(DOUBLE.layer_norm(zeros, ones, ones, 1e-6)[0], [[1.0] * 4])


# activations and softmax


@pytest.mark.parametrize(
    ("kind", "x", "expected"),
    [
        ("relu", -2.0, 0.0),
        ("relu", 3.0, 3.0),
        ("gelu", 1.0, 0.8413447460685429),
        ("gelu", -10.0, -7.61985302416052e-23),  # 1 + erf would have cancelled to nothing
        ("gelu_tanh", 1.0, 0.8411919906082768),
        ("silu", math.log(3), 0.75 * math.log(3)),
        ("silu", -1e4, 0.0),
        ("silu", 1e4, 1e4),
    ],
)
def test_activation_has_its_closed_form(kind: str, x: float, expected: float) -> None:
    assert DOUBLE.activation(kind, np.array([x]))[0] == pytest.approx(expected, rel=1e-12, abs=0)


def test_activations_keep_nan() -> None:
    for kind in ("relu", "gelu", "gelu_tanh", "silu"):
        assert np.isnan(DOUBLE.activation(kind, np.array([np.nan]))).all()


def test_swiglu_gates_with_silu() -> None:
    assert DOUBLE.swiglu(np.array([math.log(3)]), np.array([4.0]))[0] == pytest.approx(3 * math.log(3))


def test_softmax_of_logarithms_gives_their_shares() -> None:
    np.testing.assert_allclose(DOUBLE.softmax(np.log([[1.0, 2.0, 5.0]])), [[0.125, 0.25, 0.625]])


def test_softmax_row_of_minus_infinity_is_nan_and_leaves_its_neighbour_alone() -> None:
    y = DOUBLE.softmax(np.array([[-np.inf, -np.inf], [0.0, -np.inf]]))
    assert np.isnan(y[0]).all()
    np.testing.assert_array_equal(y[1], [1.0, 0.0])


# rope


def quarter_turn(n_pairs: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros((1, 1, n_pairs)), np.ones((1, 1, n_pairs))


@pytest.mark.parametrize(
    ("pairing", "expected"), [("interleaved", [-2.0, 1.0, -4.0, 3.0]), ("halves", [-3.0, -4.0, 1.0, 2.0])]
)
def test_rope_turns_its_pairs_by_a_right_angle(pairing: str, expected: list[float]) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 1, 4)
    assert DOUBLE.rope(x, *quarter_turn(2), pairing).ravel().tolist() == expected


@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
def test_partial_rope_copies_the_rest(pairing: str) -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 1, 1, 5)
    assert DOUBLE.rope(x, *quarter_turn(1), pairing).ravel().tolist() == [-2.0, 1.0, 3.0, 4.0, 5.0]


# attention


def test_equal_scores_average_the_keys_seen_so_far() -> None:
    out, lse = DOUBLE.attention(column(0, 0, 0), column(1, 2, 3), column(6, 0, 3), lower(0, 0, 0), CAUSAL)
    np.testing.assert_allclose(out.ravel(), [6.0, 3.0, 3.0])
    np.testing.assert_allclose(lse.ravel(), np.log([1, 2, 3]))


def test_lower_hides_the_earlier_document() -> None:
    out, _ = DOUBLE.attention(column(0, 0, 0), column(1, 2, 3), column(6, 0, 4), lower(0, 1, 1), CAUSAL)
    np.testing.assert_allclose(out.ravel(), [6.0, 0.0, 2.0])


def test_scores_are_scaled_products() -> None:
    params = AttentionParams(scale=0.5)
    out, lse = DOUBLE.attention(column(0, 2), column(0, math.log(3)), column(0, 4), lower(0, 0), params)
    np.testing.assert_allclose(out.ravel(), [0.0, 3.0])
    np.testing.assert_allclose(lse.ravel(), np.log([1, 4]))


def test_soft_cap_bends_the_scores() -> None:
    params = AttentionParams(scale=1.0, softcap=2.0)
    _, lse = DOUBLE.attention(column(3), column(5), column(1), lower(0), params)
    np.testing.assert_allclose(lse.ravel(), 2 * math.tanh(7.5))


def test_query_offset_counts_the_cached_keys() -> None:
    params = AttentionParams(scale=1.0, q_offset=2)
    out, _ = DOUBLE.attention(column(0), column(1, 1, 1, 1), column(3, 6, 9, np.nan), lower(0), params)
    np.testing.assert_allclose(out.ravel(), [6.0])


def test_query_heads_share_their_group_of_keys() -> None:
    v = np.array([1.0, 2.0]).reshape(1, 1, 2, 1)
    out, _ = DOUBLE.attention(np.zeros((1, 1, 6, 1)), np.zeros((1, 1, 2, 1)), v, lower(0), CAUSAL)
    assert out.ravel().tolist() == [1.0, 1.0, 1.0, 2.0, 2.0, 2.0]


# embedding, loss, dropout


def test_embedding_picks_rows_and_its_gradient_adds_the_repeated_ones() -> None:
    ids = np.array([2, 0, 2], np.int32)
    np.testing.assert_array_equal(DOUBLE.embedding(np.array([[1.0], [2.0], [3.0]]), ids), [[3.0], [1.0], [3.0]])
    out = np.array([[0.0], [0.0], [100.0]])
    DOUBLE.embedding_backward(np.array([[1.0], [10.0], [5.0]]), ids, out)
    np.testing.assert_array_equal(out, [[10.0], [0.0], [106.0]])


def test_cross_entropy_of_equal_logits_is_the_logarithm_of_their_number() -> None:
    logits = np.zeros((1, 4))
    assert DOUBLE.cross_entropy(logits, np.array([3], np.int32), None)[0] == pytest.approx(math.log(4))
    np.testing.assert_array_equal(logits, np.zeros((1, 4)))


def test_cross_entropy_overwrites_the_logits_by_their_scaled_gradient() -> None:
    logits = np.log([[1.0, 1.0, 2.0]])
    losses = DOUBLE.cross_entropy(logits, np.array([2], np.int32), 4.0)
    assert losses[0] == pytest.approx(math.log(2))
    np.testing.assert_allclose(logits, [[1.0, 1.0, -2.0]])


def test_cross_entropy_of_a_hopeless_label_is_exact() -> None:
    assert DOUBLE.cross_entropy(np.array([[1e4, -1e4]]), np.array([1], np.int32), None)[0] == 2e4


def test_splitmix64_gives_the_published_sequence() -> None:
    golden = 0x9E3779B97F4A7C15
    outputs = [splitmix64(1234567 + (i + 1) * golden) for i in range(3)]
    assert outputs == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_dropout_mask_is_the_definition_in_scalars() -> None:
    key, p = DropoutKey(seed=7, step=-1, micro_batch=2, module=2**40), 0.3
    counters = [key.mixed() + (i + 1) * 0x9E3779B97F4A7C15 for i in range(60)]
    kept = [splitmix64(counter) >> 32 >= math.floor(p * 2**32) for counter in counters]
    y = DOUBLE.dropout(np.ones((4, 15)), p, key)
    np.testing.assert_allclose(y.ravel(), np.where(kept, 1 / 0.7, 0.0))


def test_dropout_drops_even_nan() -> None:
    y = DOUBLE.dropout(np.full(100, np.nan), 0.5, DropoutKey(1, 1, 1, 1))
    assert 0 < np.isnan(y).sum() < 100
    assert (y[~np.isnan(y)] == 0).all()


def test_each_field_of_the_key_changes_the_mask() -> None:
    keys = [DropoutKey(*fields) for fields in np.vstack([np.zeros((1, 4), int), np.eye(4, dtype=int)]).tolist()]
    masks = {DOUBLE.dropout(np.ones(64), 0.5, key).tobytes() for key in keys}
    assert len(masks) == 5


# optimizers


def adam(step: int = 1, decoupled: bool = True, weight_decay: float = 0.0) -> AdamParams:
    return AdamParams(0.1, 0.9, 0.99, 0.0, weight_decay, decoupled, step)


def test_first_adam_step_is_the_learning_rate_against_the_gradients_sign() -> None:
    p, m, v = np.array([1.0, 1.0]), np.zeros(2), np.zeros(2)
    DOUBLE.adam_steps([(p, np.array([3.0, -0.01]), m, v)], adam())
    np.testing.assert_allclose(p, [0.9, 1.1])
    np.testing.assert_allclose(m, [0.3, -0.001])
    np.testing.assert_allclose(v, [0.09, 1e-6])


def test_adamw_shrinks_the_weight_apart_from_the_gradient_and_adam_through_it() -> None:
    decayed, p, state = np.array([2.0]), np.array([2.0]), np.zeros((2, 2, 1))
    DOUBLE.adam_steps([(decayed, np.array([1.0]), *state[0])], adam(weight_decay=0.5))
    np.testing.assert_allclose(decayed, 2.0 - 0.1 * 0.5 * 2.0 - 0.1)
    DOUBLE.adam_steps([(p, np.array([1.0]), *state[1])], adam(decoupled=False, weight_decay=0.5))
    np.testing.assert_allclose(p, 2.0 - 0.1)
    np.testing.assert_allclose(state[1, 0], 0.1 * (1.0 + 0.5 * 2.0))


def test_clipping_multiplies_the_gradient_before_the_moments() -> None:
    p, grad, m, v = np.zeros(1), np.array([4.0]), np.zeros(1), np.zeros(1)
    DOUBLE.adam_steps([(p, grad, m, v)], adam(), DOUBLE.plan_clipping([grad], max_norm=2.0))
    np.testing.assert_allclose([grad[0], m[0], v[0]], [4.0, 0.2, 0.04], rtol=1e-6)


def sgd(first_step: bool = False, nesterov: bool = False, momentum: float = 0.5) -> SGDParams:
    return SGDParams(0.1, momentum, nesterov, 0.0, first_step)


def test_sgd_momentum_starts_at_the_gradient_and_then_accumulates() -> None:
    p, buffer, grad = np.array([1.0]), np.array([np.nan]), np.array([2.0])
    DOUBLE.sgd_steps([(p, grad, buffer)], sgd(first_step=True))
    np.testing.assert_allclose([p[0], buffer[0]], [0.8, 2.0])
    DOUBLE.sgd_steps([(p, grad, buffer)], sgd())
    np.testing.assert_allclose([p[0], buffer[0]], [0.5, 3.0])


def test_nesterov_looks_one_step_ahead() -> None:
    p, buffer = np.array([1.0]), np.array([0.0])
    DOUBLE.sgd_steps([(p, np.array([2.0]), buffer)], sgd(first_step=True, nesterov=True))
    np.testing.assert_allclose(p, 1.0 - 0.1 * (2.0 + 0.5 * 2.0))


def test_sgd_without_momentum_needs_no_buffer() -> None:
    p = np.array([1.0])
    DOUBLE.sgd_steps([(p, np.array([2.0]), None)], SGDParams(0.1, 0.0, False, 0.5, True))
    np.testing.assert_allclose(p, 1.0 - 0.1 * (2.0 + 0.5 * 1.0))


def test_sum_of_squares_does_not_overflow_float32() -> None:
    assert ReferenceBackend().sum_of_squares(np.full(2, 1e30, np.float32)) == pytest.approx(2e60)


@pytest.mark.parametrize(("value", "finite"), [(1.0, True), (np.nan, False), (np.inf, False), (-np.inf, False)])
def test_all_finite_sees_one_bad_element(value: float, finite: bool) -> None:
    assert DOUBLE.all_finite(np.array([[0.0, value]])) is finite

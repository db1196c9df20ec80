"""What the ops compute, against NumPy and closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from entrenar_core.autograd.ops import (
    activation,
    attention,
    dropout,
    elementwise,
    embedding,
    low_rank,
    matmul,
    norm,
    reduce,
    rope,
    shape,
)
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.parameters import AttentionParams, DropoutKey
from entrenar_core.backend.reference import ReferenceBackend

Array = np.ndarray
RNG = np.random.default_rng(17)
A, B = RNG.standard_normal((2, 3, 4)), RNG.uniform(0.5, 2.0, (3, 1))
M, N = RNG.standard_normal((5, 3)), RNG.standard_normal((4, 3))
BIAS = RNG.standard_normal(4)
KEY = DropoutKey(seed=1, step=2, micro_batch=0, module=3)

VALUES: dict[str, tuple[Callable[..., Tensor], tuple[Array, ...], Array]] = {
    "add": (elementwise.add, (A, B), A + B),
    "subtract": (elementwise.subtract, (A, B), A - B),
    "multiply": (elementwise.multiply, (A, B), A * B),
    "multiply one shape": (elementwise.multiply, (A, A), A * A),
    "divide": (elementwise.divide, (A, B), A / B),
    "scale": (lambda x: elementwise.scale(x, -0.5), (A,), -0.5 * A),
    "exp": (elementwise.exp, (A,), np.exp(A)),
    "log": (elementwise.log, (B,), np.log(B)),
    "sqrt": (elementwise.sqrt, (B,), np.sqrt(B)),
    "power": (lambda x: elementwise.power(x, 1.5), (B,), B**1.5),
    "tanh": (elementwise.tanh, (A,), np.tanh(A)),
    "sum": (reduce.sum_, (A,), A.sum()),
    "sum axis": (lambda x: reduce.sum_(x, -1), (A,), A.sum(-1)),
    "sum keepdims": (lambda x: reduce.sum_(x, (0, 2), keepdims=True), (A,), A.sum((0, 2), keepdims=True)),
    "mean": (reduce.mean, (A,), A.mean()),
    "mean axis": (lambda x: reduce.mean(x, (0, -1)), (A,), A.mean((0, -1))),
    "mean keepdims": (lambda x: reduce.mean(x, 1, keepdims=True), (A,), A.mean(1, keepdims=True)),
    "max": (reduce.maximum, (A,), A.max()),
    "max axis": (lambda x: reduce.maximum(x, 1), (A,), A.max(1)),
    "max keepdims": (lambda x: reduce.maximum(x, 1, keepdims=True), (A,), A.max(1, keepdims=True)),
    "reshape": (lambda x: shape.reshape(x, (4, -1)), (A,), A.reshape(4, 6)),
    "transpose": (lambda x: shape.transpose(x, (-1, 0, 1)), (A,), A.transpose(2, 0, 1)),
    "slice": (lambda x: shape.slice_(x, (1, slice(None, None, 2))), (A,), A[1, ::2]),
    "slice one element": (lambda x: shape.slice_(x, (1, 2, -1)), (A,), A[1, 2, -1]),
    "concatenate": (lambda x, y: shape.concatenate([x, y, x], axis=-1), (M, M), np.concatenate([M, M, M], axis=-1)),
    "concatenate rows": (lambda x, y: shape.concatenate([x, y]), (M, N), np.concatenate([M, N])),
    "broadcast_to": (lambda x: shape.broadcast_to(x, (2, 3, 4)), (B,), np.broadcast_to(B, (2, 3, 4))),
    "matmul": (matmul.matmul, (M, N.T), M @ N.T),
    "matmul batched": (matmul.matmul, (A, BIAS[:, None]), A @ BIAS[:, None]),
    "linear": (matmul.linear, (np.stack([M, 2 * M]), N), np.stack([M, 2 * M]) @ N.T),
    "linear bias": (matmul.linear, (M, N, BIAS), M @ N.T + BIAS),
    "linear vector": (matmul.linear, (M[0], N, BIAS), M[0] @ N.T + BIAS),
    "relu": (activation.relu, (A,), np.where(A > 0, A, 0)),
    "gelu": (activation.gelu, (A,), A * np.vectorize(lambda v: 0.5 + 0.5 * math.erf(v / math.sqrt(2)))(A)),
    "gelu tanh": (
        lambda x: activation.gelu(x, approximate=True),
        (A,),
        A / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (A + 0.044715 * A**3))),
    ),
    "silu": (activation.silu, (A,), A / (1 + np.exp(-A))),
    "swiglu": (activation.swiglu, (A, 2 * A), A / (1 + np.exp(-A)) * 2 * A),
    "softmax": (activation.softmax, (A,), np.exp(A) / np.exp(A).sum(-1, keepdims=True)),
    "layer_norm": (
        lambda x, g, b: norm.layer_norm(x, g, b, 0.1),
        (A, BIAS, 2 * BIAS),
        BIAS * (A - A.mean(-1, keepdims=True)) / np.sqrt(A.var(-1, keepdims=True) + 0.1) + 2 * BIAS,
    ),
    "layer_norm default eps": (
        norm.layer_norm,
        (1e-3 * A, BIAS, BIAS),
        BIAS * 1e-3 * (A - A.mean(-1, keepdims=True)) / np.sqrt(1e-6 * A.var(-1, keepdims=True) + 1e-5) + BIAS,
    ),
    "rms_norm": (
        lambda x, w: norm.rms_norm(x, w, 0.1),
        (A, BIAS),
        BIAS * A / np.sqrt((A * A).mean(-1, keepdims=True) + 0.1),
    ),
    "rms_norm default eps": (
        norm.rms_norm,
        (1e-3 * A, BIAS),
        BIAS * 1e-3 * A / np.sqrt(1e-6 * (A * A).mean(-1, keepdims=True) + 1e-5),
    ),
    "embedding": (
        lambda table: embedding.embedding(table, np.array([[4, 0], [4, 1]], np.int32)),
        (M,),
        M[[[4, 0], [4, 1]]],
    ),
}


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("name", VALUES)
def test_value(name: str, trained: bool, double: ReferenceBackend) -> None:
    function, arrays, expected = VALUES[name]
    inputs = [Tensor(array.copy(), double, requires_grad=trained) for array in arrays]
    with Tape():
        actual = function(*inputs)
    assert actual.shape == np.shape(expected)
    assert actual.data.flags.c_contiguous
    np.testing.assert_allclose(actual.data, expected, rtol=1e-12, atol=1e-14)
    for array, tensor in zip(arrays, inputs, strict=True):
        np.testing.assert_array_equal(tensor.data, array, err_msg="an input changed")


def test_a_frozen_weight_behind_a_handle_gives_the_same_product(double: ReferenceBackend) -> None:
    handle = double.prepare_weight(N)
    x, bias = Tensor(np.stack([M, 2 * M]), double), Tensor(BIAS, double)
    np.testing.assert_allclose(matmul.linear(x, handle, bias).data, x.data @ N.T + BIAS)
    assert matmul.linear(x, handle).shape == (2, 5, 4)


def test_a_tie_shares_the_gradient_of_the_maximum(double: ReferenceBackend) -> None:
    x = Tensor(np.array([[1.0, 3.0, 3.0], [2.0, 0.0, 1.0]]), double, requires_grad=True)
    with Tape() as tape:
        y = reduce.maximum(x, 1)
    tape.backward(y, np.array([1.0, 5.0]))
    np.testing.assert_array_equal(x.grad, [[0, 0.5, 0.5], [5, 0, 0]])


def test_the_gradient_of_relu_at_zero_is_zero(double: ReferenceBackend) -> None:
    x = Tensor(np.array([-1.0, 0.0, 1.0]), double, requires_grad=True)
    with Tape() as tape:
        y = activation.relu(x)
    tape.backward(y, np.full(3, 2.0))
    np.testing.assert_array_equal(x.grad, [0, 0, 2])


@pytest.mark.parametrize(("pairing", "pairs"), [("interleaved", [(0, 1), (2, 3)]), ("halves", [(0, 2), (1, 3)])])
def test_rope_turns_pairs(pairing: str, pairs: list[tuple[int, int]], double: ReferenceBackend) -> None:
    x, angles = RNG.standard_normal((2, 3, 2, 5)), RNG.standard_normal((2, 3, 2))
    y = rope.rope(Tensor(x, double), np.cos(angles), np.sin(angles), pairing).data
    for p, (i, j) in enumerate(pairs):
        turned = (x[..., i] + 1j * x[..., j]) * np.exp(1j * angles[:, :, None, p])
        np.testing.assert_allclose(y[..., i], turned.real)
        np.testing.assert_allclose(y[..., j], turned.imag)
    np.testing.assert_array_equal(y[..., 4], x[..., 4])


def naive_attention(q: Array, k: Array, v: Array, lower: Array, params: AttentionParams) -> Array:
    """Softmax over a full matrix of scores with a mask, heads repeated."""
    k, v = (np.repeat(x, q.shape[2] // k.shape[2], axis=2) for x in (k, v))
    scores = params.scale * np.einsum("bihe,bjhe->bhij", q, k)
    if params.softcap:
        scores = params.softcap * np.tanh(scores / params.softcap)
    last = np.arange(q.shape[1]) + params.q_offset
    keys = np.arange(k.shape[1])
    seen = (keys >= lower[:, :, None]) & (keys <= last[None, :, None])
    weights = np.where(seen[:, None], np.exp(scores), 0)
    return np.einsum("bhij,bjhe->bihe", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize(
    "params", [AttentionParams(0.5), AttentionParams(0.7, softcap=0.8), AttentionParams(0.5, q_offset=2)]
)
@pytest.mark.parametrize("n_kv", [1, 2, 4])
def test_attention(n_kv: int, params: AttentionParams, double: ReferenceBackend) -> None:
    n_keys = 5 + params.q_offset
    q = RNG.standard_normal((2, 5, 4, 3))
    k, v = RNG.standard_normal((2, n_keys, n_kv, 3)), RNG.standard_normal((2, n_keys, n_kv, 3))
    lower = np.array([[0, 0, 0, 3, 3], [0, 0, 1, 2, 3]], np.int32)
    out = attention.attention(*(Tensor(x, double) for x in (q, k, v)), lower, params)
    np.testing.assert_allclose(out.data, naive_attention(q, k, v, lower, params), rtol=1e-12)


def test_dropout_drops_about_a_fraction_and_scales_the_rest(double: ReferenceBackend) -> None:
    x = Tensor(np.ones((100, 100)), double)
    y = dropout.dropout(x, 0.3, KEY).data
    assert set(np.unique(y)) == {0.0, 1 / 0.7}
    assert abs((y == 0).mean() - 0.3) < 0.02


def test_the_gradient_of_dropout_has_the_mask_of_the_value(double: ReferenceBackend) -> None:
    x = Tensor(np.full((10, 10), 2.0), double, requires_grad=True)
    with Tape() as tape:
        y = dropout.dropout(x, 0.3, KEY)
    tape.backward(y, np.full((10, 10), 2.0))
    np.testing.assert_array_equal(x.grad, y.data)


@pytest.mark.parametrize("field", ["seed", "step", "micro_batch", "module"])
def test_each_part_of_the_key_changes_the_mask(field: str, double: ReferenceBackend) -> None:
    x = Tensor(np.ones((10, 10)), double)
    fields = {"seed": 1, "step": 2, "micro_batch": 0, "module": 3}
    other = DropoutKey(**(fields | {field: 9}))
    assert (dropout.dropout(x, 0.5, KEY).data != dropout.dropout(x, 0.5, other).data).any()


@pytest.mark.parametrize(("p", "key"), [(0.0, KEY), (0.5, None)], ids=["p is zero", "no key"])
def test_dropout_without_a_probability_or_a_key_is_nothing(
    p: float, key: DropoutKey | None, double: ReferenceBackend
) -> None:
    x = Tensor(np.ones(3), double)
    assert dropout.dropout(x, p, key) is x


@pytest.mark.parametrize(
    ("params", "drops"),
    [
        (low_rank.LowRankParams(0.7), False),
        (low_rank.LowRankParams(0.7, 0.5), False),
        (low_rank.LowRankParams(0.7, 0.0, KEY), False),
        (low_rank.LowRankParams(1.3, 0.5, KEY), True),
    ],
    ids=["plain", "no key", "p is zero", "dropout"],
)
def test_lora_linear_is_the_base_plus_the_scaled_adapter(
    params: low_rank.LowRankParams, drops: bool, double: ReferenceBackend
) -> None:
    x, lora_a, lora_b = RNG.standard_normal((2, 5, 3)), RNG.standard_normal((2, 3)), RNG.standard_normal((4, 2))
    tensors = [Tensor(array, double, requires_grad=True) for array in (x, lora_a, lora_b, BIAS)]
    actual = low_rank.lora_linear(tensors[0], double.prepare_weight(N), *tensors[1:], params)
    dropped = dropout.dropout(Tensor(x, double), 0.5, KEY).data if drops else x
    np.testing.assert_allclose(actual.data, x @ N.T + BIAS + params.scale * dropped @ lora_a.T @ lora_b.T, rtol=1e-12)


def test_each_gradient_of_lora_linear_comes_alone(double: ReferenceBackend) -> None:
    arrays = [RNG.standard_normal(sizes) for sizes in ((2, 5, 3), (2, 3), (4, 2), (4,))]
    upstream = RNG.standard_normal((2, 5, 4))

    def gradients(*trained: bool) -> list[Array | None]:
        x, *rest = (Tensor(a, double, requires_grad=t) for a, t in zip(arrays, trained, strict=True))
        with Tape() as tape:
            y = low_rank.lora_linear(x, double.prepare_weight(N), *rest, low_rank.LowRankParams(0.7, 0.3, KEY))
        tape.backward(y, upstream)
        return [tensor.slot.grad for tensor in (x, *rest)]

    together = gradients(True, True, True, True)
    for index in range(4):
        alone = gradients(*(index == i for i in range(4)))
        np.testing.assert_array_equal(alone[index], together[index])
        assert [grad is None for grad in alone] == [i != index for i in range(4)]

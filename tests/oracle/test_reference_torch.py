"""The reference backend in float64 against torch in double: each kernel and its gradient, to 1e-8 and better."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from entrenar_core.backend.parameters import AdamParams, AttentionParams, SGDParams
from entrenar_core.backend.reference import ReferenceBackend

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")
functional = torch.nn.functional

pytestmark = pytest.mark.oracle

DOUBLE = ReferenceBackend(np.float64)
TOLERANCE = 1e-10
RNG = np.random.default_rng(11)


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape)


def leaf(array: np.ndarray) -> Any:
    """A double tensor that gathers a gradient."""
    return torch.tensor(array, dtype=torch.float64, requires_grad=True)


def assert_same(actual: Any, expected: Any) -> None:
    """‖actual - expected‖ <= 1e-10·‖expected‖."""
    expected = expected.detach().numpy()
    assert actual.shape == expected.shape
    assert np.linalg.norm(actual - expected) <= TOLERANCE * np.linalg.norm(expected)


def test_rms_norm() -> None:
    x, weight, dy = normal(5, 12), normal(12), normal(5, 12)
    tx, tw = leaf(x), leaf(weight)
    expected = functional.rms_norm(tx, (12,), tw, 1e-5)
    expected.backward(torch.tensor(dy))
    y, inv_rms = DOUBLE.rms_norm(x, weight, 1e-5)
    dx, dweight = DOUBLE.rms_norm_backward(dy, x, weight, inv_rms, True)
    for actual, wanted in ((y, expected), (dx, tx.grad), (dweight, tw.grad)):
        assert_same(actual, wanted)


def test_layer_norm() -> None:
    x, gamma, beta, dy = normal(5, 12), normal(12), normal(12), normal(5, 12)
    tx, tg, tb = leaf(x), leaf(gamma), leaf(beta)
    expected = functional.layer_norm(tx, (12,), tg, tb, 1e-5)
    expected.backward(torch.tensor(dy))
    y, mean, inv_std = DOUBLE.layer_norm(x, gamma, beta, 1e-5)
    gradients = DOUBLE.layer_norm_backward(dy, x, gamma, mean, inv_std)
    for actual, wanted in zip((y, *gradients), (expected, tx.grad, tg.grad, tb.grad), strict=True):
        assert_same(actual, wanted)


@pytest.mark.parametrize(
    ("kind", "oracle"),
    [
        ("relu", functional.relu),
        ("gelu", functional.gelu),
        ("gelu_tanh", lambda x: functional.gelu(x, approximate="tanh")),
        ("silu", functional.silu),
    ],
)
def test_activation(kind: Any, oracle: Any) -> None:
    x, dy = 3 * normal(7, 9), normal(7, 9)
    tx = leaf(x)
    expected = oracle(tx)
    expected.backward(torch.tensor(dy))
    assert_same(DOUBLE.activation(kind, x), expected)
    assert_same(DOUBLE.activation_backward(kind, dy, x), tx.grad)


def test_swiglu() -> None:
    gate, up, dy = normal(4, 6), normal(4, 6), normal(4, 6)
    tg, tu = leaf(gate), leaf(up)
    expected = functional.silu(tg) * tu
    expected.backward(torch.tensor(dy))
    for actual, wanted in zip(DOUBLE.swiglu_backward(dy, gate, up), (tg.grad, tu.grad), strict=True):
        assert_same(actual, wanted)
    assert_same(DOUBLE.swiglu(gate, up), expected)


def test_softmax() -> None:
    x, dy = 5 * normal(4, 9), normal(4, 9)
    tx = leaf(x)
    expected = functional.softmax(tx, dim=-1)
    expected.backward(torch.tensor(dy))
    y = DOUBLE.softmax(x)
    assert_same(y, expected)
    assert_same(DOUBLE.softmax_backward(dy, y), tx.grad)


@pytest.mark.parametrize("n_pairs", [4, 3])
@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
def test_rope_is_a_complex_product(pairing: Any, n_pairs: int) -> None:
    x, dy, angles = normal(2, 5, 3, 8), normal(2, 5, 3, 8), normal(2, 5, n_pairs)
    tx = leaf(x)
    turned, rest = tx[..., : 2 * n_pairs], tx[..., 2 * n_pairs :]
    order = (n_pairs, 2) if pairing == "interleaved" else (2, n_pairs)
    axis = -1 if pairing == "interleaved" else -2
    parts = turned.unflatten(-1, order).movedim(axis, -1).contiguous()
    unit = torch.polar(torch.ones(angles.shape, dtype=torch.float64), torch.tensor(angles))[:, :, None]
    product = torch.view_as_real(torch.view_as_complex(parts) * unit).movedim(-1, axis)
    expected = torch.cat([product.flatten(-2), rest], dim=-1)
    expected.backward(torch.tensor(dy))
    cos, sin = np.cos(angles), np.sin(angles)
    assert_same(DOUBLE.rope(x, cos, sin, pairing), expected)
    assert_same(DOUBLE.rope(dy, cos, sin, pairing, inverse=True), tx.grad)


@pytest.mark.parametrize("softcap", [0.0, 2.0])
@pytest.mark.parametrize("q_offset", [0, 4])
@pytest.mark.parametrize("n_kv", [1, 2, 6])
def test_attention(n_kv: int, q_offset: int, softcap: float) -> None:
    tq, tk = 9, 9 + q_offset
    q, dout = normal(2, tq, 6, 8), normal(2, tq, 6, 8)
    k, v = normal(2, tk, n_kv, 8), normal(2, tk, n_kv, 8)
    last = np.arange(tq) + q_offset
    lower = np.stack([np.maximum(last - 3, 0), np.where(last < 5, 0, 5)]).astype(np.int32)  # a window; two documents
    seen = (np.arange(tk) >= lower[..., None]) & (np.arange(tk) <= last[:, None])
    leaves = [leaf(x) for x in (q, k, v)]
    tq_, tk_, tv_ = (x.transpose(1, 2).repeat_interleave(6 // x.shape[2], dim=1) for x in leaves)
    scores = 0.3 * tq_ @ tk_.transpose(2, 3)
    scores = softcap * torch.tanh(scores / softcap) if softcap else scores
    scores = scores.masked_fill(~torch.tensor(seen)[:, None], -torch.inf)
    expected = (functional.softmax(scores, dim=-1) @ tv_).transpose(1, 2)
    expected.backward(torch.tensor(dout))

    params = AttentionParams(0.3, softcap, q_offset)
    out, lse = DOUBLE.attention(q, k, v, lower, params)
    assert_same(out, expected)
    assert_same(lse, torch.logsumexp(scores, dim=-1))
    gradients = DOUBLE.attention_backward(dout, q, k, v, out, lse, lower, params)
    for actual, wanted in zip(gradients, leaves, strict=True):
        assert_same(actual, wanted.grad)


def test_causal_attention_is_scaled_dot_product_attention() -> None:
    q, k, v = normal(2, 9, 6, 8), normal(2, 9, 2, 8), normal(2, 9, 2, 8)
    heads_first = [torch.tensor(x).transpose(1, 2) for x in (q, k, v)]
    expected = functional.scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True)
    out, _ = DOUBLE.attention(q, k, v, np.zeros((2, 9), np.int32), AttentionParams(8**-0.5))
    assert_same(out, expected.transpose(1, 2))


def test_linear() -> None:
    x, weight, dy = normal(5, 4), normal(6, 4), normal(5, 6)
    tx = leaf(x)
    expected = functional.linear(tx, torch.tensor(weight))
    expected.backward(torch.tensor(dy))
    handle = DOUBLE.prepare_weight(weight)
    assert_same(DOUBLE.linear(x, handle), expected)
    assert_same(DOUBLE.linear_input_grad(dy, handle), tx.grad)


def test_gemm() -> None:
    a, b, out = normal(5, 4), normal(7, 4), normal(5, 7)
    expected = torch.addmm(torch.tensor(out), torch.tensor(a), torch.tensor(b).T, beta=-0.5, alpha=1.5)
    assert_same(DOUBLE.gemm(a, b.T, out, alpha=1.5, beta=-0.5), expected)


def test_embedding() -> None:
    table, ids, dy = normal(6, 4), np.array([5, 0, 5, 3], np.int32), normal(4, 4)
    tt = leaf(table)
    expected = functional.embedding(torch.tensor(ids), tt)
    expected.backward(torch.tensor(dy))
    gradient = DOUBLE.zeros((6, 4))
    DOUBLE.embedding_backward(dy, ids, gradient)
    assert_same(DOUBLE.embedding(table, ids), expected)
    assert_same(gradient, tt.grad)


def test_cross_entropy() -> None:
    logits, labels = 4 * normal(6, 11), np.array([0, 10, 3, 3, 7, 1], np.int32)
    tl = leaf(logits)
    expected = functional.cross_entropy(tl, torch.tensor(labels, dtype=torch.int64), reduction="none")
    (0.3 * expected.sum()).backward()
    losses = DOUBLE.cross_entropy(logits, labels, 0.3)
    assert_same(losses, expected)
    assert_same(logits, tl.grad)


@pytest.mark.parametrize("decoupled", [True, False])
def test_adam(decoupled: bool) -> None:
    parameter, m, v = normal(4, 3), np.zeros((4, 3)), np.zeros((4, 3))
    expected = leaf(parameter)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    optimizer = kind([expected], lr=0.02, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1)
    for step in range(1, 8):
        grad = normal(4, 3)
        expected.grad = torch.tensor(grad)
        optimizer.step()
        DOUBLE.adam_steps([(parameter, grad, m, v)], AdamParams(0.02, 0.8, 0.95, 1e-6, 0.1, decoupled, step))
        assert_same(parameter, expected)


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.9, False), (0.9, True)])
def test_sgd(momentum: float, nesterov: bool) -> None:
    parameter = normal(4, 3)
    buffer = np.zeros((4, 3)) if momentum else None
    expected = leaf(parameter)
    optimizer = torch.optim.SGD([expected], lr=0.02, momentum=momentum, nesterov=nesterov, weight_decay=0.1)
    for step in range(7):
        grad = normal(4, 3)
        expected.grad = torch.tensor(grad)
        optimizer.step()
        DOUBLE.sgd_steps([(parameter, grad, buffer)], SGDParams(0.02, momentum, nesterov, 0.1, step == 0))
        assert_same(parameter, expected)

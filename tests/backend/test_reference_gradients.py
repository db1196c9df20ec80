"""Each backward of the reference backend against float64 central differences, with random upstream gradients."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from entrenar_core.backend.parameters import AttentionParams, DropoutKey
from entrenar_core.backend.reference import ReferenceBackend
from tests.backend.agreement import assert_close

DOUBLE = ReferenceBackend(np.float64)
STEP = 1e-5
TOLERANCE = 1e-7


def numeric_gradient(loss: Callable[[], float], x: np.ndarray) -> np.ndarray:
    """d loss / d x by central differences, one element of x at a time (changed in place and put back)."""
    gradient = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        kept = x[index]
        x[index] = kept + STEP
        above = loss()
        x[index] = kept - STEP
        gradient[index] = (above - loss()) / (2 * STEP)
        x[index] = kept
    return gradient


def check(outputs: Callable[[], np.ndarray], upstream: np.ndarray, *pairs: tuple[np.ndarray, np.ndarray]) -> None:
    """Each (input, analytic gradient) pair against differences of <upstream, outputs()>."""
    for x, analytic in pairs:
        assert_close(analytic, numeric_gradient(lambda: float((upstream * outputs()).sum()), x), TOLERANCE)


def test_rms_norm(rng: np.random.Generator) -> None:
    x, weight, dy = rng.normal(size=(3, 7)), rng.normal(size=7), rng.normal(size=(3, 7))
    dx, dweight = DOUBLE.rms_norm_backward(dy, x, weight, DOUBLE.rms_norm(x, weight, 0.1)[1], True)
    assert dweight is not None
    check(lambda: DOUBLE.rms_norm(x, weight, 0.1)[0], dy, (x, dx), (weight, dweight))


def test_rms_norm_of_a_frozen_weight_gives_no_weight_gradient(rng: np.random.Generator) -> None:
    x, weight = rng.normal(size=(3, 7)), rng.normal(size=7)
    assert DOUBLE.rms_norm_backward(x, x, weight, DOUBLE.rms_norm(x, weight, 0.1)[1], False)[1] is None


def test_layer_norm(rng: np.random.Generator) -> None:
    x, gamma, beta, dy = rng.normal(size=(3, 6)), rng.normal(size=6), rng.normal(size=6), rng.normal(size=(3, 6))
    _, mean, inv_std = DOUBLE.layer_norm(x, gamma, beta, 0.1)
    dx, dgamma, dbeta = DOUBLE.layer_norm_backward(dy, x, gamma, mean, inv_std)
    check(lambda: DOUBLE.layer_norm(x, gamma, beta, 0.1)[0], dy, (x, dx), (gamma, dgamma), (beta, dbeta))


@pytest.mark.parametrize("kind", ["relu", "gelu", "gelu_tanh", "silu"])
def test_activation(kind: str) -> None:
    x = np.linspace(-4.1, 4.2, 24).reshape(4, 6)  # no element within a step of relu's kink
    dy = np.cos(np.arange(24.0)).reshape(4, 6)
    check(lambda: DOUBLE.activation(kind, x), dy, (x, DOUBLE.activation_backward(kind, dy, x)))


def test_swiglu(rng: np.random.Generator) -> None:
    gate, up, dy = rng.normal(size=(3, 2, 5, 4))[:, 0]
    dgate, dup = DOUBLE.swiglu_backward(dy, gate, up)
    check(lambda: DOUBLE.swiglu(gate, up), dy, (gate, dgate), (up, dup))


def test_softmax(rng: np.random.Generator) -> None:
    x, dy = rng.normal(size=(3, 5)), rng.normal(size=(3, 5))
    check(lambda: DOUBLE.softmax(x), dy, (x, DOUBLE.softmax_backward(dy, DOUBLE.softmax(x))))


@pytest.mark.parametrize("pairing", ["interleaved", "halves"])
def test_rope(pairing: str, rng: np.random.Generator) -> None:
    x, dy, angles = rng.normal(size=(2, 3, 2, 7)), rng.normal(size=(2, 3, 2, 7)), rng.normal(size=(2, 3, 3))
    cos, sin = np.cos(angles), np.sin(angles)
    check(lambda: DOUBLE.rope(x, cos, sin, pairing), dy, (x, DOUBLE.rope(dy, cos, sin, pairing, inverse=True)))


@pytest.mark.parametrize("softcap", [0.0, 1.5])
@pytest.mark.parametrize(
    ("q_offset", "lower"),
    [
        (0, [[0, 0, 0, 0, 0], [0, 0, 2, 2, 4]]),
        (2, [[0, 0, 0, 0, 0], [2, 2, 3, 4, 6]]),  # cached keys; a window; a query that sees only itself
    ],
)
def test_attention(softcap: float, q_offset: int, lower: list[list[int]], rng: np.random.Generator) -> None:
    q, dout = rng.normal(size=(2, 5, 4, 3)), rng.normal(size=(2, 5, 4, 3))
    k, v = rng.normal(size=(2, 7, 2, 3)), rng.normal(size=(2, 7, 2, 3))
    starts, params = np.array(lower, np.int32), AttentionParams(0.8, softcap, q_offset)
    out, lse = DOUBLE.attention(q, k, v, starts, params)
    dq, dk, dv = DOUBLE.attention_backward(dout, q, k, v, out, lse, starts, params)
    check(lambda: DOUBLE.attention(q, k, v, starts, params)[0], dout, (q, dq), (k, dk), (v, dv))


def test_linear(rng: np.random.Generator) -> None:
    x, weight, dy = rng.normal(size=(4, 3)), DOUBLE.prepare_weight(rng.normal(size=(5, 3))), rng.normal(size=(4, 5))
    check(lambda: DOUBLE.linear(x, weight), dy, (x, DOUBLE.linear_input_grad(dy, weight)))


def test_embedding(rng: np.random.Generator) -> None:
    table, ids, dy = rng.normal(size=(4, 3)), np.array([3, 0, 3, 1], np.int32), rng.normal(size=(4, 3))
    gradient = DOUBLE.zeros((4, 3))
    DOUBLE.embedding_backward(dy, ids, gradient)
    check(lambda: DOUBLE.embedding(table, ids), dy, (table, gradient))


def test_cross_entropy(rng: np.random.Generator) -> None:
    logits, labels = rng.normal(size=(4, 6)), np.array([5, 0, 2, 2], np.int32)
    gradient = logits.copy()
    DOUBLE.cross_entropy(gradient, labels, 0.25)
    check(lambda: DOUBLE.cross_entropy(logits, labels, None), np.full(4, 0.25), (logits, gradient))


def test_dropout_is_its_own_gradient(rng: np.random.Generator) -> None:
    x, dy, key = rng.normal(size=(3, 5)), rng.normal(size=(3, 5)), DropoutKey(1, 2, 3, 4)
    check(lambda: DOUBLE.dropout(x, 0.4, key), dy, (x, DOUBLE.dropout(dy, 0.4, key)))

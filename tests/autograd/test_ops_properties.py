"""Laws that hold for any input: linearity, invariances, broadcasting, random expressions against differences."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays, broadcastable_shapes, mutually_broadcastable_shapes

from entrenar_core.autograd.gradcheck import check_gradients
from entrenar_core.autograd.ops import (
    activation,
    dropout,
    elementwise,
    embedding,
    loss,
    matmul,
    norm,
    reduce,
    rope,
    shape,
)
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.parameters import DropoutKey
from entrenar_core.backend.reference import ReferenceBackend

pytestmark = pytest.mark.property

DOUBLE = ReferenceBackend(np.float64)
KEY = DropoutKey(seed=5, step=1, micro_batch=0, module=2)
ANGLES = np.random.default_rng(0).standard_normal((2, 3, 2))
SEEDS = st.integers(0, 2**32 - 1)
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)

LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "scale": lambda x: elementwise.scale(x, -1.5),
    "sum": lambda x: reduce.sum_(x, (0, 2)),
    "mean": lambda x: reduce.mean(x, 1, keepdims=True),
    "reshape": lambda x: shape.reshape(x, (4, -1)),
    "transpose": lambda x: shape.transpose(x, (3, 1, 0, 2)),
    "slice": lambda x: shape.slice_(x, (..., slice(1, 3), 0)),
    "concatenate": lambda x: shape.concatenate([x, x], axis=2),
    "broadcast_to": lambda x: shape.broadcast_to(x, (2, 2, 3, 2, 4)),
    "add": lambda x: elementwise.add(x, x),
    "subtract": lambda x: elementwise.subtract(elementwise.scale(x, 3.0), x),
    "linear": lambda x: matmul.linear(x, Tensor(np.cos(np.arange(20.0)).reshape(5, 4), DOUBLE)),
    "matmul": lambda x: matmul.matmul(x, Tensor(np.cos(np.arange(20.0)).reshape(4, 5), DOUBLE)),
    "rope": lambda x: rope.rope(x, np.cos(ANGLES), np.sin(ANGLES), "halves"),
    "dropout": lambda x: dropout.dropout(x, 0.4, KEY),
    "embedding": lambda x: embedding.embedding(shape.reshape(x, (12, 4)), np.array([3, 11, 3], np.int32)),
}


def normal(seed: int, *sizes: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(sizes)


def gradient(function: Callable[[Tensor], Tensor], x: np.ndarray, upstream: np.ndarray | None = None) -> np.ndarray:
    leaf = Tensor(x.copy(), DOUBLE, requires_grad=True)
    with Tape() as tape:
        y = function(leaf)
    tape.backward(y, upstream)
    assert leaf.grad is not None
    return leaf.grad


@pytest.mark.parametrize("name", LINEAR)
@given(seed=SEEDS, a=st.floats(-10, 10), b=st.floats(-10, 10))
def test_linear_ops_are_linear(name: str, seed: int, a: float, b: float) -> None:
    function = LINEAR[name]
    x, y = normal(seed, 2, 3, 2, 4), normal(seed + 1, 2, 3, 2, 4)
    together = function(Tensor(a * x + b * y, DOUBLE)).data
    apart = a * function(Tensor(x, DOUBLE)).data + b * function(Tensor(y, DOUBLE)).data
    np.testing.assert_allclose(together, apart, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", LINEAR)
@given(seed=SEEDS)
def test_the_gradient_of_a_linear_op_is_its_adjoint(name: str, seed: int) -> None:
    function = LINEAR[name]
    x = normal(seed, 2, 3, 2, 4)
    y = function(Tensor(x, DOUBLE)).data
    upstream = normal(seed + 1, *y.shape)
    np.testing.assert_allclose((y * upstream).sum(), (x * gradient(function, x, upstream)).sum(), rtol=1e-9, atol=1e-9)


@given(sizes=SHAPES, seed=SEEDS)
def test_the_gradient_of_a_sum_is_ones_and_of_a_mean_their_share(sizes: tuple[int, ...], seed: int) -> None:
    x = normal(seed, *sizes)
    np.testing.assert_array_equal(gradient(reduce.sum_, x), np.ones(sizes))
    np.testing.assert_allclose(gradient(reduce.mean, x), np.full(sizes, 1 / x.size))


@pytest.mark.parametrize("op", [elementwise.add, elementwise.subtract, elementwise.multiply, elementwise.divide])
@given(shapes=mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4), seed=SEEDS)
def test_broadcasting_ops_give_gradients_of_their_inputs_shapes(
    op: Callable[..., Tensor], shapes: object, seed: int
) -> None:
    sizes_a, sizes_b = shapes.input_shapes  # type: ignore[attr-defined]
    rng = np.random.default_rng(seed)
    a, b = (Tensor(rng.uniform(0.5, 2.0, sizes), DOUBLE, requires_grad=True) for sizes in (sizes_a, sizes_b))
    with Tape() as tape:
        y = op(a, b)
    tape.backward(y, rng.standard_normal(y.shape))
    assert a.grad is not None
    assert b.grad is not None
    assert (a.grad.shape, b.grad.shape) == (sizes_a, sizes_b)


@given(data=st.data(), sizes=SHAPES, seed=SEEDS)
def test_stretching_and_summing_are_adjoint(data: st.DataObject, sizes: tuple[int, ...], seed: int) -> None:
    small = data.draw(
        broadcastable_shapes(sizes, max_dims=len(sizes)).filter(lambda s: np.broadcast_shapes(s, sizes) == sizes)
    )
    x, upstream = normal(seed, *small), normal(seed + 1, *sizes)
    stretched = np.broadcast_to(x, sizes)
    grad = gradient(lambda t: shape.broadcast_to(t, sizes), x, upstream)
    np.testing.assert_allclose((stretched * upstream).sum(), (x * grad).sum(), rtol=1e-9, atol=1e-9)


LOGITS = arrays(np.float64, (3, 5), elements=st.floats(-50, 50))


@given(x=LOGITS, shift=st.floats(-100, 100))
def test_softmax_is_a_distribution_that_a_shift_does_not_change(x: np.ndarray, shift: float) -> None:
    y = activation.softmax(Tensor(x, DOUBLE)).data
    assert (y >= 0).all()
    np.testing.assert_allclose(y.sum(-1), 1)
    np.testing.assert_allclose(activation.softmax(Tensor(x + shift, DOUBLE)).data, y, rtol=1e-9, atol=1e-300)


@given(x=LOGITS, seed=SEEDS, constant=st.floats(-10, 10))
def test_the_gradient_of_softmax_sums_to_zero_and_ignores_a_constant(x: np.ndarray, seed: int, constant: float) -> None:
    upstream = normal(seed, 3, 5)
    grad = gradient(activation.softmax, x, upstream)
    np.testing.assert_allclose(grad.sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(gradient(activation.softmax, x, upstream + constant), grad, atol=1e-11)


@given(x=LOGITS, shift=st.floats(-100, 100), labels=st.lists(st.integers(-1, 4), min_size=3, max_size=3))
def test_cross_entropy_is_positive_and_a_shift_does_not_change_it(
    x: np.ndarray, shift: float, labels: list[int]
) -> None:
    targets = np.array(labels, np.int32)

    def total(values: np.ndarray) -> float:
        return float(loss.cross_entropy(Tensor(values, DOUBLE), targets, 0.5).data)

    assert total(x) >= 0
    np.testing.assert_allclose(total(x + shift), total(x), rtol=1e-9, atol=1e-9)
    grad = gradient(lambda t: loss.cross_entropy(t, targets, 0.5), x)
    np.testing.assert_allclose(grad.sum(-1), 0, atol=1e-12)
    np.testing.assert_array_equal(grad[targets < 0], 0)


@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=9),
    rows_per_chunk=st.integers(1, 10),
    seed=SEEDS,
)
def test_the_fused_loss_equals_the_plain_one(labels: list[int], rows_per_chunk: int, seed: int) -> None:
    targets = np.array(labels, np.int32)
    states, matrix = normal(seed, len(labels), 3), normal(seed + 1, 5, 3)

    def results(*, fused: bool) -> list[np.ndarray]:
        hidden, weight = (Tensor(x, DOUBLE, requires_grad=True) for x in (states, matrix))
        with Tape() as tape:
            if fused:
                total = loss.linear_cross_entropy(hidden, weight, targets, 0.5, rows_per_chunk=rows_per_chunk)
            else:
                total = loss.cross_entropy(matmul.linear(hidden, weight), targets, 0.5)
        tape.backward(total)
        return [total.data, hidden.grad, weight.grad]

    for actual, expected in zip(results(fused=True), results(fused=False), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-12)


@given(seed=SEEDS, factor=st.floats(0.1, 10))
def test_rms_norm_ignores_the_size_of_its_input(seed: int, factor: float) -> None:
    x, weight = Tensor(normal(seed, 3, 8), DOUBLE), Tensor(normal(seed + 1, 8), DOUBLE)
    scaled = norm.rms_norm(elementwise.scale(x, factor), weight, 0.0)
    np.testing.assert_allclose(scaled.data, norm.rms_norm(x, weight, 0.0).data, rtol=1e-9)


@given(seed=SEEDS, factor=st.floats(0.1, 10), shift=st.floats(-10, 10))
def test_layer_norm_ignores_the_size_and_the_level_of_its_input(seed: int, factor: float, shift: float) -> None:
    x, gamma, beta = normal(seed, 3, 8), Tensor(normal(seed + 1, 8), DOUBLE), Tensor(normal(seed + 2, 8), DOUBLE)
    moved = norm.layer_norm(Tensor(factor * x + shift, DOUBLE), gamma, beta, 0.0)
    np.testing.assert_allclose(
        moved.data, norm.layer_norm(Tensor(x, DOUBLE), gamma, beta, 0.0).data, rtol=1e-7, atol=1e-9
    )


UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": elementwise.tanh,
    "silu": activation.silu,
    "gelu": activation.gelu,
    "softmax": activation.softmax,
    "scale": lambda x: elementwise.scale(x, 0.7),
    "transpose": lambda x: shape.transpose(x, (1, 0)),
    "centred": lambda x: elementwise.subtract(x, reduce.mean(x, 1, keepdims=True)),
    "reshape": lambda x: shape.reshape(shape.reshape(x, (9,)), (3, 3)),
    "rows swapped": lambda x: shape.concatenate([shape.slice_(x, slice(1, 3)), shape.slice_(x, slice(0, 1))]),
    "dropout": lambda x: dropout.dropout(x, 0.3, KEY),
    "normed": lambda x: norm.rms_norm(x, Tensor(np.array([1.0, -2.0, 0.5]), DOUBLE), 0.1),
}
BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": elementwise.add,
    "subtract": elementwise.subtract,
    "multiply": elementwise.multiply,
    "matmul": lambda a, b: elementwise.scale(matmul.matmul(a, b), 0.3),
    "linear": lambda a, b: elementwise.scale(matmul.linear(a, b), 0.3),
    "swiglu": activation.swiglu,
}
STEP = st.tuples(st.sampled_from([*UNARY, *BINARY]), st.integers(0, 2**16), st.integers(0, 2**16))


@given(steps=st.lists(STEP, min_size=1, max_size=8), seed=SEEDS)
def test_a_random_expression_has_the_gradient_of_finite_differences(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """Each step takes any of the results so far, so results are used never, once and many times."""

    def expression(*leaves: Tensor) -> Tensor:
        results = list(leaves)
        for name, first, second in steps:
            a, b = results[first % len(results)], results[second % len(results)]
            results.append(UNARY[name](a) if name in UNARY else BINARY[name](a, b))
        return results[-1]

    assert check_gradients(expression, [normal(seed, 3, 3), normal(seed + 1, 3, 3)], DOUBLE, eps=1e-5) < 1e-3

"""Gradients that meet: tensors used many times, buffers that several gradients share, several tapes into one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from entrenar_core.autograd.gradcheck import check_gradients
from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops import activation, elementwise, embedding, loss, matmul, reduce, shape
from entrenar_core.autograd.ops.elementwise import add, multiply, scale, subtract
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend

IDS = np.array([2, 0, 2, 2], np.int32)
LABELS = np.array([1, -100, 0, 2], np.int32)


Expression = Callable[[Tensor], Tensor]


def diamond(h: Tensor) -> Tensor:
    """Two residual blocks: the gradient of each sum goes both ways."""
    for _ in range(2):
        h = add(h, elementwise.tanh(h))
        h = add(h, activation.silu(h))
    return h


def concatenation_meets_a_residual(h: Tensor) -> Tensor:
    joined = shape.concatenate([h, elementwise.exp(h)])
    return add(joined, multiply(joined, joined))


EXPRESSIONS: dict[str, Expression] = {
    "h + h": lambda h: add(h, h),
    "h + h + h": lambda h: add(add(h, h), h),
    "h - h·h": lambda h: subtract(h, multiply(h, h)),
    "h - h": lambda h: subtract(h, h),
    "h·h·h": lambda h: multiply(multiply(h, h), h),
    "used late and early": lambda h: add(multiply(elementwise.exp(h), h), h),
    "used many times": lambda h: add(add(add(h, multiply(h, h)), add(elementwise.exp(h), h)), add(h, h)),
    "residual diamond": diamond,
    "reshape and itself": lambda h: add(h, shape.reshape(shape.reshape(h, (6,)), (2, 3))),
    "two reshapes": lambda h: add(shape.reshape(h, (6,)), shape.reshape(multiply(h, h), (6,))),
    "concatenated with itself": lambda h: shape.concatenate([h, h, scale(h, 3.0)]),
    "concatenation meets a residual": concatenation_meets_a_residual,
    "transposed twice": lambda h: add(shape.transpose(shape.transpose(h, (1, 0)), (1, 0)), h),
    "transposed not at all": lambda h: add(shape.transpose(h, (0, 1)), multiply(h, h)),
    "broadcast to its own shape": lambda h: add(shape.broadcast_to(h, (2, 3)), multiply(h, h)),
    "slices that overlap": lambda h: add(shape.slice_(h, (0, slice(0, 2))), shape.slice_(h, (slice(0, 2), 1))),
    "matrix with its transpose": lambda h: matmul.matmul(h, shape.transpose(h, (1, 0))),
    "linear with itself": lambda h: matmul.linear(h, h),
    "broadcast against its own sum": lambda h: multiply(h, reduce.sum_(h, 1, keepdims=True)),
    "softmax and its input": lambda h: multiply(activation.softmax(h), h),
}
STARTS: dict[str, Expression] = {"leaf": lambda x: x, "result": lambda x: scale(x, 2.0)}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_gradients_that_meet_equal_finite_differences(
    name: str, start: str, double: ReferenceBackend, rng: np.random.Generator
) -> None:
    def function(x: Tensor) -> Tensor:
        return EXPRESSIONS[name](STARTS[start](x))

    assert check_gradients(function, [rng.standard_normal((2, 3))], double) < 1e-5


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", EXPRESSIONS)
def test_gradients_on_the_pooled_backend_equal_the_reference(
    name: str, start: str, double: ReferenceBackend, cpu: CpuBackend, rng: np.random.Generator
) -> None:
    values = rng.standard_normal((2, 3)).astype(np.float32)
    grads = []
    for backend in (double, cpu):
        x = Tensor(backend.asarray(values), backend, requires_grad=True)
        with Tape() as tape:
            y = EXPRESSIONS[name](STARTS[start](x))
        tape.backward(y, backend.asarray(np.random.default_rng(3).standard_normal(y.shape)))
        grads.append(x.grad)
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-4, atol=1e-5)


def test_the_upstream_gradient_is_not_changed(double: ReferenceBackend, rng: np.random.Generator) -> None:
    upstream = rng.standard_normal((2, 3))
    before = upstream.copy()
    x = Tensor(rng.standard_normal((2, 3)), double, requires_grad=True)
    with Tape() as tape:
        y = add(shape.reshape(add(x, x), (2, 3)), x)
    tape.backward(y, upstream)
    np.testing.assert_array_equal(upstream, before)
    np.testing.assert_allclose(x.grad, 3 * before)


def test_the_gradients_of_two_leaves_are_two_buffers(double: ReferenceBackend) -> None:
    a, b = (Tensor(np.ones(3), double, requires_grad=True) for _ in range(2))
    upstream = np.ones(3)
    with Tape() as tape:
        y = add(a, b)
    tape.backward(y, upstream)
    assert not np.shares_memory(a.grad, b.grad)
    assert not np.shares_memory(a.grad, upstream)


@pytest.mark.parametrize("join", ["concatenate", "transpose", "broadcast_to", "reshape"])
def test_a_gradient_passed_on_by_a_view_is_never_written_to(join: str, double: ReferenceBackend) -> None:
    """`h` and `other` get one shared buffer from the sum; `h` gets a second gradient, `other` must not see it."""
    weight = Tensor(np.full((2, 2), 3.0), double, requires_grad=True, name="weight")
    bias = Tensor(np.zeros((2, 2)), double, requires_grad=True, name="bias")
    views: dict[str, Expression] = {
        "concatenate": lambda h: shape.concatenate([h]),
        "transpose": lambda h: shape.transpose(h, (0, 1)),
        "broadcast_to": lambda h: shape.broadcast_to(h, (2, 2)),
        "reshape": lambda h: shape.reshape(h, (2, 2)),
    }
    with Tape() as tape:
        other = scale(bias, 1.0)
        h = scale(weight, 1.0)
        squared = multiply(h, h)
        total = add(reduce.sum_(squared), reduce.sum_(add(views[join](h), other)))
    tape.backward(total)
    np.testing.assert_array_equal(bias.grad, np.ones((2, 2)))
    np.testing.assert_array_equal(weight.grad, np.full((2, 2), 7.0))


def test_scalars_accumulate(double: ReferenceBackend) -> None:
    factor = Tensor(np.array(3.0), double, requires_grad=True)
    x = Tensor(np.arange(3.0), double, requires_grad=True)
    with Tape() as tape:
        y = add(multiply(x, factor), multiply(multiply(x, factor), factor))
    tape.backward(reduce_loss(tape, y))
    np.testing.assert_allclose(factor.grad, (1 + 2 * 3) * 3.0)
    np.testing.assert_allclose(x.grad, np.full(3, 12.0))


def reduce_loss(tape: Tape, y: Tensor) -> Tensor:
    with tape:
        return reduce.sum_(y)


# several tapes into one gradient


def test_two_passes_accumulate(double: ReferenceBackend) -> None:
    weight = Tensor(np.array([2.0]), double, requires_grad=True)
    for _ in range(2):
        with Tape() as tape:
            y = elementwise.power(weight, 3.0)
        tape.backward(y, np.ones(1))
    np.testing.assert_allclose(weight.grad, [24.0])


USES: dict[str, Callable[[Tensor, np.ndarray], Tensor]] = {
    "linear": lambda w, rows: matmul.linear(Tensor(rows, w.backend), w),
    "matmul": lambda w, rows: matmul.matmul(Tensor(rows, w.backend), shape.transpose(w, (1, 0))),
    "embedding": lambda w, rows: embedding.embedding(w, IDS[: len(rows)]),
    "tied": lambda w, rows: loss.linear_cross_entropy(embedding.embedding(w, IDS), w, LABELS, 0.5),
}


@pytest.mark.parametrize("name", USES)
def test_micro_batches_accumulate_to_the_gradient_of_the_batch(
    name: str, double: ReferenceBackend, rng: np.random.Generator
) -> None:
    rows = rng.standard_normal((4, 3))
    weight = Tensor(rng.standard_normal((5, 3)), double, requires_grad=True, name="weight")
    upstream = np.random.default_rng(5).standard_normal(64)

    def gradient(*parts: np.ndarray) -> np.ndarray:
        weight.zero_grad()
        for part in parts:
            with Tape() as tape:
                y = USES[name](weight, part)
            tape.backward(y, np.resize(upstream, y.shape))
        assert weight.grad is not None
        return weight.grad.copy()

    np.testing.assert_allclose(gradient(rows, rows), 2 * gradient(rows), rtol=1e-12)


def test_micro_batches_equal_one_batch(double: ReferenceBackend, rng: np.random.Generator) -> None:
    x, labels = rng.standard_normal((6, 3)), np.array([0, 4, -100, 2, 2, 1], np.int32)
    gradients = []
    for n_parts in (1, 2, 3):
        weight = Tensor(np.random.default_rng(0).standard_normal((5, 3)), double, requires_grad=True)
        for part, target in zip(np.split(x, n_parts), np.split(labels, n_parts), strict=True):
            with Tape() as tape:
                y = loss.linear_cross_entropy(Tensor(part, double), weight, target, 1 / 5)
            tape.backward(y)
        gradients.append(weight.grad)
    np.testing.assert_allclose(gradients[1], gradients[0], rtol=1e-12)
    np.testing.assert_allclose(gradients[2], gradients[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["linear", "embedding", "tied"])
def test_the_gradient_of_a_weight_keeps_its_buffer(name: str, cpu: CpuBackend, rng: np.random.Generator) -> None:
    rows = cpu.asarray(rng.standard_normal((4, 3)))
    weight = Tensor(cpu.asarray(rng.standard_normal((5, 3))), cpu, requires_grad=True, name="weight")
    addresses = set()
    for _ in range(3):
        with Tape() as tape:
            y = USES[name](weight, rows)
        tape.backward(y, cpu.asarray(np.ones(y.shape)) if y.shape else None)
        assert weight.grad is not None
        addresses.add(weight.grad.ctypes.data)
    assert len(addresses) == 1


def test_a_weight_whose_gradient_accumulates_needs_no_second_buffer(cpu: CpuBackend) -> None:
    weight = Tensor(cpu.zeros((256, 64)), cpu, requires_grad=True, name="weight")
    x = Tensor(cpu.zeros((2, 64)), cpu)
    peaks = []
    for _ in range(2):
        with Tape() as tape:
            y = matmul.linear(x, weight)
            total = reduce.sum_(y)
        held = cpu.pool.statistics().in_use
        cpu.pool.reset_peak()
        tape.backward(total)
        peaks.append(cpu.pool.statistics().peak - held)
    one = weight.data.nbytes
    assert one <= peaks[0] < 1.5 * one
    assert peaks[1] < 1.5 * one, "scratch tiles of the accumulating product, but no gradient beside the first"


def test_a_shared_gradient_is_not_offered_as_a_buffer(double: ReferenceBackend) -> None:
    offered: list[object] = []

    class Spy(Op):
        name = "spy"

        @staticmethod
        def forward(context: Context, x: np.ndarray) -> np.ndarray:
            return x * 1

        @staticmethod
        def backward(context: Context, grad: np.ndarray) -> list[np.ndarray]:
            offered.append(context.grad_buffer(0))
            return [grad * 1]

    weight = Tensor(np.ones(2), double, requires_grad=True)
    with Tape() as tape:
        h = scale(weight, 1.0)
        first = apply(Spy, h)
        y = add(h, first)
    tape.backward(y, np.ones(2))
    assert offered == [None], "the gradient of h is the upstream gradient, which is not ours to write to"
    np.testing.assert_array_equal(weight.grad, [2.0, 2.0])


def test_a_sum_of_shared_gradients_is_our_own_again(double: ReferenceBackend) -> None:
    slot = Tensor(np.zeros(2), double, is_leaf=False).slot
    first, second = np.ones(2), np.ones(2)
    context = Context(double, (True,), (slot,))
    slot.accumulate(first, double, shared=True)
    assert context.grad_buffer(0) is None
    slot.accumulate(second, double, shared=True)
    assert context.grad_buffer(0) is slot.grad
    slot.accumulate(second, double, shared=True)
    np.testing.assert_array_equal([first, second, slot.grad], [[1, 1], [1, 1], [3, 3]])


def test_an_absent_input_has_no_buffer(double: ReferenceBackend) -> None:
    assert Context(double, (False,), (None,)).grad_buffer(0) is None

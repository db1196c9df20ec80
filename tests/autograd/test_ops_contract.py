"""What the tape relies on in every op: gradients of the right form, none that nobody wants, sums added in place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise, embedding, low_rank, matmul, shape
from entrenar_core.autograd.tape import Node, Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from tests.autograd.op_cases import op_cases

SINGLE = ReferenceBackend(np.float32)
CASES = op_cases(SINGLE)
LOSSES = (
    "cross_entropy",
    "squared_error",
    "linear_cross_entropy",
    "linear_distillation",
    "hidden_match",
    "attention_match",
)
JOINT = {"attention", "attention softcap", "layer_norm", "rms_norm", "swiglu", "concatenate", "concatenate rows"}
JOINT |= {"attention_match", "attention_match mean maps"}
"""Their gradients come out of one kernel or one cut, wanted or not."""


def recorded(
    function: Callable[..., Tensor], arrays: Sequence[np.ndarray], backend: Backend, frozen: int = -1
) -> tuple[Tensor, list[Tensor], Node]:
    """The output of one op, its inputs, and its node."""
    inputs = [Tensor(backend.asarray(a), backend, requires_grad=i != frozen) for i, a in enumerate(arrays)]
    with Tape() as tape:
        output = function(*inputs)
    (node,) = tape.nodes
    return output, inputs, node


def backward(node: Node, output: Tensor) -> list[np.ndarray | None]:
    """The gradients as the op gives them, for a random upstream gradient."""
    upstream = np.asarray(np.random.default_rng(2).standard_normal(output.shape)).astype(output.data.dtype)
    return list(node.op.backward(node.context, upstream))


@pytest.mark.parametrize("name", CASES)
def test_results_and_gradients_have_the_dtype_of_the_backend_and_lie_contiguous(name: str) -> None:
    output, inputs, node = recorded(*CASES[name], SINGLE)
    assert output.data.dtype == (np.float64 if name.startswith(LOSSES) else np.float32)
    assert isinstance(output.data, np.ndarray)
    assert output.data.flags.c_contiguous
    by_slot = dict(zip((id(slot) for slot in node.inputs), backward(node, output), strict=True))
    for tensor in inputs:
        grad = by_slot[id(tensor.slot)]
        assert grad is not None
        assert grad.dtype == np.float32
        assert grad.shape == tensor.shape
        assert np.asarray(grad).flags.c_contiguous


@pytest.mark.parametrize(
    ("name", "frozen"),
    [
        (name, frozen)
        for name, (_, arrays) in CASES.items()
        for frozen in range(len(arrays))
        if len(arrays) > 1 and name not in JOINT
    ],
)
def test_no_gradient_is_computed_that_nobody_wants(name: str, frozen: int) -> None:
    output, inputs, node = recorded(*CASES[name], SINGLE, frozen)
    grads = dict(zip((id(slot) for slot in node.inputs), backward(node, output), strict=True))
    wanted = [grads[id(tensor.slot)] is not None for tensor in inputs]
    passed_on = name.startswith("subtract") and frozen == 0  # the upstream gradient itself, at no cost
    assert wanted == [index != frozen or passed_on for index in range(len(inputs))]


X, A, B, W = (np.random.default_rng(i).standard_normal(s) for i, s in enumerate(((6, 3), (2, 3), (4, 2), (4, 3))))
IDS = np.array([3, 0, 3], np.int32)


def lora(x: Tensor, a: Tensor, b: Tensor) -> Tensor:
    weight = x.backend.prepare_weight(x.backend.asarray(W))
    return low_rank.lora_linear(x, weight, a, b, None, low_rank.LowRankParams(0.5))


IN_PLACE: dict[str, tuple[Callable[..., Tensor], list[np.ndarray], int]] = {
    "linear": (matmul.linear, [X, W], 1),
    "lora A": (lora, [X, A, B], 1),
    "lora B": (lora, [X, A, B], 2),
    "embedding": (lambda table: embedding.embedding(table, IDS), [W], 0),
}


@pytest.mark.parametrize("on", ["double", "cpu"])
@pytest.mark.parametrize("name", IN_PLACE)
def test_a_weight_gradient_is_added_to_the_one_there_is(name: str, on: str, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue(on)
    function, arrays, index = IN_PLACE[name]
    output, _, node = recorded(function, arrays, backend)
    fresh = backward(node, output)[index]
    output, inputs, node = recorded(function, arrays, backend)
    before = np.random.default_rng(9).standard_normal(inputs[index].shape).astype(backend.dtype)
    buffer = backend.asarray(before.copy())
    inputs[index].slot.grad = buffer
    assert backward(node, output)[index] is buffer
    np.testing.assert_allclose(buffer, before + fresh, rtol=1e-4, atol=1e-5)
    inputs[index].slot.accumulate(buffer, backend, shared=False)
    np.testing.assert_allclose(buffer, before + fresh, rtol=1e-4, atol=1e-5, err_msg="counted twice")


POOLED: dict[str, Callable[[Tensor], Tensor]] = {
    "add": lambda x: elementwise.add(x, x),
    "multiply": lambda x: elementwise.multiply(x, x),
    "scale": lambda x: elementwise.scale(x, 2.0),
}


@pytest.mark.parametrize("name", POOLED)
def test_elementwise_ops_take_their_memory_from_the_pool(name: str, cpu: CpuBackend) -> None:
    x = Tensor(cpu.zeros((1024,)), cpu)
    before = cpu.pool.statistics().in_use
    y = POOLED[name](x)
    assert cpu.pool.statistics().in_use - before == y.data.nbytes


def test_gradients_that_are_copied_or_added_take_their_memory_from_the_pool(cpu: CpuBackend) -> None:
    x = Tensor(cpu.zeros((1024,)), cpu, requires_grad=True)
    upstream = cpu.zeros((1024,))
    with Tape() as tape:
        y = shape.reshape(x, (1024,))
    before = cpu.pool.statistics().in_use
    tape.backward(y, upstream)
    assert cpu.pool.statistics().in_use - before == upstream.nbytes, "a leaf copies what it must not keep"
    slot = Tensor(cpu.zeros((1024,)), cpu, is_leaf=False).slot
    before = cpu.pool.statistics().in_use
    slot.accumulate(upstream, cpu, shared=True)
    slot.accumulate(upstream, cpu, shared=True)
    assert cpu.pool.statistics().in_use - before == upstream.nbytes, "two that are shared make a new sum"

"""The tape: when it lets go of memory."""

from __future__ import annotations

import gc
import weakref

import numpy as np

from entrenar_core.autograd.op import Context
from entrenar_core.autograd.ops import activation, elementwise, matmul, reduce
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend


def leaf(backend: ReferenceBackend, *values: float, name: str = "weight") -> Tensor:
    return Tensor(np.array(values, backend.dtype), backend, requires_grad=True, name=name)


def test_nodes_are_dropped_while_backward_goes_on(double: ReferenceBackend) -> None:
    weight = leaf(double, 0.1)
    with Tape() as tape:
        x = weight
        for _ in range(5):
            x = elementwise.tanh(x)
    left_behind: list[int] = []

    class Watch(elementwise.Tanh):
        @staticmethod
        def backward(context: Context, grad: np.ndarray) -> object:
            left_behind.append(len(tape.nodes))
            return elementwise.Tanh.backward(context, grad)

    for node in tape.nodes:
        node.op = Watch
    tape.backward(x, np.ones(1))
    assert left_behind == [4, 3, 2, 1, 0]


def test_saved_arrays_die_with_their_node_without_the_garbage_collector(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0, 2.0)
    gc.disable()
    try:
        with Tape() as tape:
            hidden = elementwise.exp(weight)
            loss = reduce.sum_(elementwise.exp(hidden))
        saved = weakref.ref(hidden.data)
        del hidden
        assert saved() is not None, "the first exp saved its output"
        tape.backward(loss)
        assert saved() is None
    finally:
        gc.enable()


def test_an_activation_that_nobody_saved_dies_at_once(double: ReferenceBackend) -> None:
    with Tape():
        hidden = elementwise.scale(leaf(double, 1.0, 2.0), 2.0)
        data = weakref.ref(hidden.data)
        result = elementwise.scale(hidden, 2.0)
        del hidden
        assert data() is None
    assert result.requires_grad


def test_a_tape_that_is_never_walked_frees_its_memory_when_it_is_dropped(double: ReferenceBackend) -> None:
    gc.disable()
    try:
        with Tape() as tape:
            hidden = elementwise.exp(leaf(double, 1.0))
            elementwise.exp(hidden)
        data = weakref.ref(hidden.data)
        del hidden, tape
        assert data() is None
    finally:
        gc.enable()


def test_backward_returns_all_but_the_gradients_to_the_pool(cpu: CpuBackend) -> None:
    weight = Tensor(cpu.zeros((64, 64)), cpu, requires_grad=True, name="weight")
    before = cpu.pool.statistics().in_use
    with Tape() as tape:
        x = weight
        for _ in range(6):
            x = activation.silu(matmul.matmul(x, weight))
        loss = reduce.sum_(x)
        del x
    size = weight.data.nbytes
    assert cpu.pool.statistics().in_use - before >= 11 * size, "six products and six activations, less the last"
    tape.backward(loss)
    assert cpu.pool.statistics().in_use - before == size, "the gradient of the weight"


def test_backward_needs_little_more_memory_than_the_activations(cpu: CpuBackend) -> None:
    weight = Tensor(cpu.zeros((64, 64)), cpu, requires_grad=True, name="weight")
    size = weight.data.nbytes
    with Tape() as tape:
        x = weight
        for _ in range(20):
            x = activation.silu(x)
        loss = reduce.sum_(x)
        del x
    cpu.pool.reset_peak()
    held = cpu.pool.statistics().in_use
    tape.backward(loss)
    assert cpu.pool.statistics().peak - held <= 2 * size, "each gradient replaces the one before"

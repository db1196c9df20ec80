"""Activation checkpointing: the same numbers to the last bit, from less memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from entrenar_core.autograd.checkpoint import checkpoint
from entrenar_core.autograd.ops import activation, dropout, elementwise, matmul, norm, reduce
from entrenar_core.autograd.tape import Tape, no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.parameters import DropoutKey
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError

WIDTH = 8
Runner = Callable[..., Tensor]


def plainly(function: Callable[..., Tensor], *inputs: Tensor, trainable_inside: bool = False) -> Tensor:
    """`checkpoint` without checkpointing."""
    return function(*inputs)


def parameter(backend: Backend, seed: int, *sizes: int, trained: bool = True) -> Tensor:
    values = np.random.default_rng(seed).standard_normal(sizes)
    return Tensor(backend.asarray(values), backend, requires_grad=trained, name=f"parameter {seed}")


class Block:
    """x + W·dropout(silu(W·norm(x))), with a mask of its own."""

    def __init__(self, backend: Backend, index: int, *, trained: bool = True, p: float = 0.0) -> None:
        self.weight = parameter(backend, index, WIDTH, WIDTH, trained=trained)
        self.gamma = parameter(backend, 100 + index, WIDTH, trained=trained)
        self.key = DropoutKey(seed=1, step=2, micro_batch=3, module=index)
        self.p = p

    def __call__(self, x: Tensor) -> Tensor:
        hidden = activation.silu(matmul.linear(norm.rms_norm(x, self.gamma), self.weight))
        hidden = dropout.dropout(hidden, self.p, self.key)
        return elementwise.add(x, matmul.linear(hidden, self.weight))


def run(run_block: Runner, backend: Backend, *, p: float = 0.0, n_blocks: int = 3) -> list[np.ndarray]:
    """Loss and all gradients of a stack of blocks."""
    x = parameter(backend, 50, 5, WIDTH)
    blocks = [Block(backend, index, p=p) for index in range(n_blocks)]
    with Tape() as tape:
        hidden = x
        for block in blocks:
            hidden = run_block(block, hidden, trainable_inside=True)
        loss = reduce.sum_(elementwise.multiply(hidden, hidden))
    tape.backward(loss)
    leaves = [x] + [leaf for block in blocks for leaf in (block.weight, block.gamma)]
    return [loss.numpy()] + [np.array(leaf.grad) for leaf in leaves]


@pytest.mark.parametrize("p", [0.0, 0.4], ids=["no dropout", "dropout"])
@pytest.mark.parametrize("on", ["double", "cpu"])
def test_loss_and_gradients_are_the_same_bits(on: str, p: float, request: pytest.FixtureRequest) -> None:
    backend = request.getfixturevalue(on)
    for plain, saved in zip(run(plainly, backend, p=p), run(checkpoint, backend, p=p), strict=True):
        np.testing.assert_array_equal(saved, plain)


def test_dropout_changes_what_is_computed(double: ReferenceBackend) -> None:
    assert run(checkpoint, double, p=0.4)[0] != run(checkpoint, double)[0]


def nested(block: Block, x: Tensor, *, trainable_inside: bool) -> Tensor:
    def outer(x: Tensor) -> Tensor:
        return checkpoint(block, elementwise.tanh(x), trainable_inside=trainable_inside)

    return checkpoint(outer, x, trainable_inside=trainable_inside)


def unnested(block: Block, x: Tensor, *, trainable_inside: bool) -> Tensor:
    return block(elementwise.tanh(x))


def test_checkpoints_nest(double: ReferenceBackend) -> None:
    for plain, saved in zip(run(unnested, double, p=0.3), run(nested, double, p=0.3), strict=True):
        np.testing.assert_array_equal(saved, plain)


def test_anomaly_mode_changes_no_bit(double: ReferenceBackend) -> None:
    def gradient(*, detect_anomaly: bool) -> np.ndarray:
        x, block = parameter(double, 50, 5, WIDTH), Block(double, 0, p=0.3)
        with Tape(detect_anomaly=detect_anomaly) as tape:
            loss = reduce.sum_(checkpoint(block, x, trainable_inside=True))
        tape.backward(loss)
        return np.concatenate([np.ravel(leaf.grad) for leaf in (x, block.weight, block.gamma)])

    np.testing.assert_array_equal(gradient(detect_anomaly=True), gradient(detect_anomaly=False))


def test_parameters_inside_are_trained_when_no_input_is(double: ReferenceBackend) -> None:
    x, block = parameter(double, 50, 5, WIDTH, trained=False), Block(double, 0)
    grads = []
    for run_block in (plainly, checkpoint):
        block.weight.zero_grad()
        with Tape() as tape:
            loss = reduce.sum_(run_block(block, x, trainable_inside=True))
        tape.backward(loss)
        grads.append(block.weight.grad)
    np.testing.assert_array_equal(grads[1], grads[0])


@pytest.mark.parametrize("detect_anomaly", [False, True])
def test_losing_the_gradients_of_parameters_inside_is_refused(detect_anomaly: bool, double: ReferenceBackend) -> None:
    x, block = parameter(double, 50, 5, WIDTH, trained=False), Block(double, 0)
    with (
        Tape(detect_anomaly=detect_anomaly, scopes=("blk.0",)),
        pytest.raises(
            AutogradError,
            match=r"closes over trainable tensors \(blk.0\), whose gradients .*\n  hint: pass trainable_inside=True$",
        ),
    ):
        checkpoint(block, x)


def test_parameters_inside_need_no_mention_when_an_input_is_trained(double: ReferenceBackend) -> None:
    x, block = parameter(double, 50, 5, WIDTH), Block(double, 0)
    with Tape() as tape:
        loss = reduce.sum_(checkpoint(block, x))
    tape.backward(loss)
    assert block.weight.grad is not None
    assert x.grad is not None


def test_a_frozen_block_on_frozen_input_is_not_recorded(double: ReferenceBackend) -> None:
    x, block = parameter(double, 50, 5, WIDTH, trained=False), Block(double, 0, trained=False)
    with Tape() as tape:
        y = checkpoint(block, x)
    assert not y.requires_grad
    assert not tape.nodes
    np.testing.assert_array_equal(y.data, block(x).data)


def test_without_a_tape_the_function_just_runs(double: ReferenceBackend) -> None:
    x, block = parameter(double, 50, 5, WIDTH), Block(double, 0)
    with Tape(), no_grad():
        y = checkpoint(block, x)
    assert not y.requires_grad
    np.testing.assert_array_equal(y.data, block(x).data)


def test_one_node_is_recorded_and_it_saves_its_inputs_only(double: ReferenceBackend) -> None:
    x = parameter(double, 50, 5, WIDTH)
    with Tape() as tape:
        checkpoint(Block(double, 0), x)
    (node,) = tape.nodes
    assert node.op.name == "checkpoint"
    assert len(node.context.saved) == 1
    assert node.context.saved[0] is x.data


def test_an_input_that_changed_in_place_is_refused(double: ReferenceBackend) -> None:
    x = parameter(double, 50, 5, WIDTH)
    with Tape() as tape:
        loss = reduce.sum_(checkpoint(Block(double, 0), x))
    x.assign(np.zeros((5, WIDTH)))
    with pytest.raises(AutogradError, match="'parameter 50' was changed in place after 'checkpoint' saved it"):
        tape.backward(loss)


def test_several_inputs_some_of_them_frozen_or_the_same(double: ReferenceBackend) -> None:
    def weighted(a: Tensor, frozen: Tensor, b: Tensor) -> Tensor:
        assert not frozen.requires_grad
        return elementwise.multiply(elementwise.multiply(a, frozen), elementwise.exp(b))

    frozen = parameter(double, 7, 3, trained=False)
    grads = []
    for run_block in (plainly, checkpoint):
        x = parameter(double, 8, 3)
        with Tape() as tape:
            loss = reduce.sum_(run_block(weighted, x, frozen, x))
        tape.backward(loss)
        grads.append(x.grad)
    np.testing.assert_array_equal(grads[1], grads[0])


def test_an_activation_closed_over_gets_its_gradient(double: ReferenceBackend) -> None:
    grads = []
    for run_block in (plainly, checkpoint):
        x = parameter(double, 8, 3)
        with Tape() as tape:
            hidden = elementwise.exp(x)
            loss = reduce.sum_(run_block(lambda y, hidden=hidden: elementwise.multiply(y, hidden), elementwise.tanh(x)))
        tape.backward(loss)
        grads.append(x.grad)
    np.testing.assert_allclose(grads[1], grads[0], rtol=1e-15)


def test_a_function_that_returns_what_it_was_given(double: ReferenceBackend) -> None:
    x, hidden = parameter(double, 8, 3), parameter(double, 9, 3)
    with Tape() as tape:
        first = checkpoint(lambda y: y, elementwise.scale(x, 2.0))
        second = checkpoint(lambda y: hidden, first)
        loss = reduce.sum_(elementwise.add(first, second))
    tape.backward(loss)
    np.testing.assert_array_equal(x.grad, np.full(3, 2.0))
    np.testing.assert_array_equal(hidden.grad, np.ones(3))


def test_a_gradient_that_passes_through_is_not_taken_over(double: ReferenceBackend) -> None:
    hidden, upstream = parameter(double, 9, 3), np.ones(3)
    with Tape() as tape:
        y = checkpoint(lambda y: hidden, parameter(double, 8, 3))
    tape.backward(y, upstream)
    assert hidden.grad is not None
    assert not np.shares_memory(hidden.grad, upstream)


def test_a_function_that_does_not_depend_on_its_input(double: ReferenceBackend) -> None:
    x = parameter(double, 8, 3)
    with Tape() as tape:
        loss = reduce.sum_(checkpoint(lambda y: Tensor(np.ones(3), double), x))
    tape.backward(loss)
    assert x.grad is None


def test_memory_is_the_inputs_of_the_blocks_and_the_activations_of_one(cpu: CpuBackend) -> None:
    n_blocks, width = 12, 32
    weight = Tensor(cpu.asarray(np.eye(width)), cpu, requires_grad=True, name="weight")

    def block(x: Tensor) -> Tensor:
        for _ in range(3):
            x = activation.relu(matmul.linear(x, weight))
        return x

    def memory(run_block: Runner) -> tuple[float, float]:
        """After forward, and at the peak of backward, in arrays of one activation."""
        weight.zero_grad()
        x = Tensor(cpu.zeros((width, width)), cpu, requires_grad=True, name="x")
        before, unit = cpu.pool.statistics().in_use, x.data.nbytes
        cpu.pool.reset_peak()
        with Tape() as tape:
            hidden = x
            for _ in range(n_blocks):
                hidden = run_block(block, hidden, trainable_inside=True)
            loss = reduce.sum_(hidden)
            del hidden
        after_forward = cpu.pool.statistics().in_use - before
        tape.backward(loss)
        return after_forward / unit, (cpu.pool.statistics().peak - before) / unit

    kept, peak = memory(plainly)
    assert kept > 6 * n_blocks - 2, "a product and an activation three times in each block"
    assert peak > kept
    kept, peak = memory(checkpoint)
    assert kept < n_blocks + 1
    assert peak < n_blocks + 6 + 5, "inputs, the six activations of one block, its gradients and the weight's"

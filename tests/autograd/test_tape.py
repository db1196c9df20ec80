"""The tape: what it records, and what it refuses."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops import activation, elementwise, matmul, reduce, shape
from entrenar_core.autograd.tape import Tape, current_tape, no_grad, scope
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError


def leaf(backend: ReferenceBackend, *values: float, name: str = "weight") -> Tensor:
    return Tensor(np.array(values, backend.dtype), backend, requires_grad=True, name=name)


# what is recorded


def test_nothing_is_recorded_outside_a_tape(double: ReferenceBackend) -> None:
    y = elementwise.exp(leaf(double, 1.0))
    assert current_tape() is None
    assert not y.requires_grad


def test_only_ops_that_lead_to_a_trainable_tensor_are_recorded(double: ReferenceBackend) -> None:
    frozen = Tensor(np.ones(2), double)
    with Tape() as tape:
        still_frozen = elementwise.exp(frozen)
        assert not still_frozen.requires_grad
        assert not tape.nodes
        trained = elementwise.multiply(still_frozen, leaf(double, 1.0, 2.0))
    assert trained.requires_grad
    assert [node.op.name for node in tape.nodes] == ["multiply"]


def test_no_grad_suspends_recording_and_resumes_it(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0)
    with Tape() as tape:
        with no_grad():
            assert current_tape() is None
            elementwise.exp(weight)
        assert current_tape() is tape
        elementwise.exp(weight)
    assert len(tape.nodes) == 1
    assert current_tape() is None


def test_no_grad_and_tape_end_when_an_error_leaves_them() -> None:
    with pytest.raises(KeyError), Tape():
        raise KeyError
    with Tape() as tape:
        with pytest.raises(KeyError), no_grad():
            raise KeyError
        assert current_tape() is tape
    assert current_tape() is None


def test_the_innermost_tape_records(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0)
    with Tape() as outer, Tape() as inner:
        elementwise.exp(weight)
    assert (len(outer.nodes), len(inner.nodes)) == (0, 1)


def test_a_node_saves_nothing_but_what_its_op_asked_for(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0, 2.0)
    with Tape() as tape:
        elementwise.add(weight, weight)
        elementwise.exp(weight)
    added, exponential = tape.nodes
    assert added.context.saved == ()
    np.testing.assert_array_equal(exponential.context.saved[0], np.exp([1.0, 2.0]))


def test_a_context_that_does_not_record_saves_nothing(double: ReferenceBackend) -> None:
    context = Context(double, (False, False), (None, None))
    context.save(np.ones(3))
    assert not context.recording
    assert context.saved == ()


def test_results_are_the_same_with_and_without_a_tape(double: ReferenceBackend) -> None:
    values = np.linspace(-1, 1, 12).reshape(3, 4)

    def network(weight: Tensor) -> Tensor:
        return reduce.sum_(activation.softmax(matmul.matmul(weight, shape.transpose(weight, (1, 0)))), 0)

    plain = network(Tensor(values, double)).numpy()
    with Tape():
        taped = network(Tensor(values, double, requires_grad=True)).numpy()
    np.testing.assert_array_equal(plain, taped)


def test_results_are_arrays_even_when_they_are_scalars(double: ReferenceBackend) -> None:
    scalar = Tensor(np.array(2.0), double)
    for result in (elementwise.multiply(scalar, scalar), reduce.sum_(scalar), elementwise.exp(scalar)):
        assert isinstance(result.data, np.ndarray)


# the walk


def test_a_chain_of_ten_thousand_ops_needs_no_recursion(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0)
    limit = sys.getrecursionlimit()
    assert limit < 10_000
    with Tape() as tape:
        x = weight
        for _ in range(10_000):
            x = elementwise.scale(x, 1.0001)
    tape.backward(x, np.ones(1))
    np.testing.assert_allclose(weight.grad, 1.0001**10_000)


def test_branches_that_do_not_lead_to_the_output_are_not_walked(double: ReferenceBackend) -> None:
    weight, other = leaf(double, 2.0), leaf(double, 5.0, name="other")
    with Tape() as tape:
        elementwise.log(other)
        output = elementwise.scale(weight, 3.0)
        elementwise.exp(output)
    tape.backward(output, np.ones(1))
    np.testing.assert_array_equal(weight.grad, [3.0])
    assert other.grad is None


def test_a_frozen_input_gets_no_gradient(double: ReferenceBackend) -> None:
    weight, frozen = leaf(double, 2.0), Tensor(np.array([3.0]), double, name="frozen")
    with Tape() as tape:
        loss = reduce.sum_(elementwise.add(elementwise.multiply(weight, frozen), frozen))
    tape.backward(loss)
    np.testing.assert_array_equal(weight.grad, [3.0])
    assert frozen.slot.grad is None


def test_backward_inside_the_tape_records_nothing(double: ReferenceBackend) -> None:
    weight = leaf(double, 2.0)
    with Tape() as tape:
        tape.backward(elementwise.exp(weight), np.ones(1))
    np.testing.assert_allclose(weight.grad, np.exp([2.0]))


# misuse is an error, not a wrong number


def test_a_second_backward_is_refused(double: ReferenceBackend) -> None:
    weight = leaf(double, 2.0)
    with Tape() as tape:
        loss = reduce.sum_(weight)
    tape.backward(loss)
    with pytest.raises(AutogradError, match=r"(?s)backward ran twice over one tape.*hint: run the forward pass again"):
        tape.backward(loss)
    np.testing.assert_array_equal(weight.grad, [1.0])


def test_recording_on_a_consumed_tape_is_refused(double: ReferenceBackend) -> None:
    weight = leaf(double, 2.0)
    with Tape() as tape:
        tape.backward(reduce.sum_(weight))
        with pytest.raises(
            AutogradError, match=r"'exp' was recorded on a tape whose backward has run\n  hint: open a new Tape"
        ):
            elementwise.exp(weight)


def test_entering_a_tape_twice_is_refused() -> None:
    with Tape() as tape, pytest.raises(AutogradError, match=r"^this tape is already recording"), tape:
        pass
    with tape:
        assert current_tape() is tape, "once left, it may go on"


@pytest.mark.parametrize("case", ["never recorded", "leaf", "other tape", "no grad"])
def test_backward_from_a_tensor_that_the_tape_did_not_record_is_refused(case: str, double: ReferenceBackend) -> None:
    weight = leaf(double, 2.0)
    with Tape() as other:
        elsewhere = reduce.sum_(weight)
    with Tape() as tape:
        reduce.sum_(weight)
        with no_grad():
            suspended = reduce.sum_(weight)
    outputs = {
        "never recorded": Tensor(np.array(1.0), double),
        "leaf": Tensor(np.array(1.0), double, requires_grad=True),
        "other tape": elsewhere,
        "no grad": suspended,
    }
    with pytest.raises(AutogradError, match=r"^the tensor was not recorded on this tape\n  hint: compute it inside"):
        tape.backward(outputs[case])
    other.backward(elsewhere)
    np.testing.assert_array_equal(weight.grad, [1.0])


def test_an_output_that_is_no_scalar_needs_a_gradient(double: ReferenceBackend) -> None:
    with Tape() as tape:
        output = elementwise.exp(leaf(double, 1.0, 2.0))
    with pytest.raises(AutogradError, match=r"backward needs a gradient for an output of shape \(2,\)"):
        tape.backward(output)


def test_an_upstream_gradient_of_another_shape_is_refused(double: ReferenceBackend) -> None:
    with Tape() as tape:
        output = elementwise.exp(leaf(double, 1.0, 2.0))
    with pytest.raises(AutogradError, match=r"gradient of shape \(3,\) for an output of shape \(2,\)"):
        tape.backward(output, np.ones(3))


def test_the_upstream_gradient_takes_the_dtype_of_the_output(cpu: CpuBackend) -> None:
    seen: list[np.dtype] = []

    class Spy(Op):
        @staticmethod
        def forward(context: Context, x: np.ndarray) -> np.ndarray:
            return x.astype(np.float64)

        @staticmethod
        def backward(context: Context, grad: np.ndarray) -> list[np.ndarray]:
            seen.append(grad.dtype)
            return [np.broadcast_to(grad, (2,)) * 1]

    single = Tensor(cpu.zeros((2,)), cpu, requires_grad=True)
    with Tape() as tape:
        total = reduce.sum_(single)
        assert total.data.dtype == np.float32
    (node,) = tape.nodes
    node.op = Spy
    tape.backward(total)
    assert seen.pop() == np.float32
    weight = Tensor(cpu.zeros((2,)), cpu, requires_grad=True)
    with Tape() as tape:
        output = apply(Spy, weight)
    tape.backward(output, np.array([1.0, 1 / 3]))
    assert seen == [np.float64]
    assert weight.grad is not None
    np.testing.assert_array_equal(weight.grad, np.array([1.0, 1 / 3], np.float32))


def test_inputs_on_two_backends_are_refused(double: ReferenceBackend) -> None:
    single = ReferenceBackend(np.float32)
    with pytest.raises(AutogradError, match=r"'add' got inputs on 2 backends: \['reference', 'reference'\]"):
        elementwise.add(leaf(double, 1.0), leaf(single, 1.0))


def test_a_result_of_another_tape_is_refused(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0)
    with Tape() as first:
        hidden = elementwise.exp(weight)
    with Tape(), pytest.raises(AutogradError, match=r"'sum' got 'exp' from another tape; .*\n  hint: compute both"):
        reduce.sum_(hidden)
    first.backward(hidden, np.ones(1))
    with Tape() as tape:
        loss = reduce.sum_(elementwise.multiply(Tensor(hidden.data, double), weight))
    tape.backward(loss)
    np.testing.assert_allclose(weight.grad, 2 * np.exp([1.0]))


def test_a_result_of_another_tape_may_be_used_as_a_constant(double: ReferenceBackend) -> None:
    with Tape():
        hidden = elementwise.exp(leaf(double, 1.0))
    assert not elementwise.exp(hidden).requires_grad


def test_an_op_whose_gradients_have_another_shape_is_refused(double: ReferenceBackend) -> None:
    class Wrong(Op):
        name = "wrong"

        @staticmethod
        def forward(context: Context, x: np.ndarray) -> np.ndarray:
            return x * 1

        @staticmethod
        def backward(context: Context, grad: np.ndarray) -> list[np.ndarray]:
            return [grad.sum()]

    with Tape() as tape:
        output = apply(Wrong, leaf(double, 1.0, 2.0))
    with pytest.raises(AutogradError, match=r"gradient of shape \(\) for tensor 'weight' of shape \(2,\)"):
        tape.backward(output, np.ones(2))


def test_an_op_without_forward_or_backward_is_refused(double: ReferenceBackend) -> None:
    class NoBackward(Op):
        @staticmethod
        def forward(context: Context, x: np.ndarray) -> np.ndarray:
            return x * 1

    with pytest.raises(AutogradError, match=r"^an op without forward"):
        apply(Op, leaf(double, 1.0))
    with Tape() as tape:
        output = apply(NoBackward, leaf(double, 1.0))
    with pytest.raises(AutogradError, match=r"^an op without backward"):
        tape.backward(output, np.ones(1))


# scopes


def test_nodes_know_the_scopes_they_ran_in(double: ReferenceBackend) -> None:
    weight = leaf(double, 1.0)
    with Tape(scopes=("model",)) as tape:
        with scope("blk.0"), scope("attn"):
            elementwise.exp(weight)
        with pytest.raises(KeyError), scope("blk.1"):
            raise KeyError
        elementwise.exp(weight)
    assert [node.location for node in tape.nodes] == ["model.blk.0.attn", "model"]


def test_a_scope_without_a_tape_costs_nothing() -> None:
    with scope("blk.0"):
        assert current_tape() is None

"""Tensors: gradients that may be asked for, data that changes in place, and tapes that notice."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from entrenar_core.autograd.ops import activation, attention, elementwise, matmul, norm, reduce, shape
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.cpu import CpuBackend
from entrenar_core.backend.cuda import CudaBackend
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError
from tests.cuda_host import host_runtime


def leaf(backend: ReferenceBackend, *sizes: int, name: str = "weight") -> Tensor:
    values = np.random.default_rng(1).uniform(0.5, 2.0, sizes)
    return Tensor(values.astype(backend.dtype), backend, requires_grad=True, name=name)


def test_a_tensor_says_what_it_is(double: ReferenceBackend) -> None:
    weight = leaf(double, 2, 3, name="blk.0.attn_q.weight")
    assert repr(weight) == "Tensor(blk.0.attn_q.weight, shape=(2, 3), float64, requires_grad)"
    assert repr(Tensor(np.ones(2), double)) == "Tensor(unnamed, shape=(2,), float64)"
    assert (weight.name, weight.shape) == ("blk.0.attn_q.weight", (2, 3))
    np.testing.assert_array_equal(weight.numpy(), weight.data)


def test_a_frozen_tensor_has_no_gradient_to_ask_for(double: ReferenceBackend) -> None:
    with pytest.raises(AutogradError, match=r"'token_embd.weight' is frozen[^\n]*\n  hint: .*requires_grad=True"):
        _ = Tensor(np.ones(2), double, name="token_embd.weight").grad


def test_an_intermediate_result_has_no_gradient_to_ask_for(double: ReferenceBackend) -> None:
    with Tape() as tape:
        hidden = elementwise.exp(leaf(double, 2))
        loss = reduce.sum_(hidden)
    tape.backward(loss)
    with pytest.raises(AutogradError, match="'exp' is an intermediate result; only leaves keep"):
        _ = hidden.grad
    assert hidden.slot.grad is None


def test_a_leaf_has_no_gradient_before_backward_and_none_after_zero_grad(double: ReferenceBackend) -> None:
    weight = leaf(double, 2)
    assert weight.grad is None
    with Tape() as tape:
        loss = reduce.sum_(weight)
    tape.backward(loss)
    assert weight.grad is not None
    weight.zero_grad()
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.bool_])
def test_integers_cannot_be_trained(dtype: type, double: ReferenceBackend) -> None:
    with pytest.raises(AutogradError, match=r"'ids' of .* cannot have a gradient"):
        Tensor(np.ones(2, dtype), double, requires_grad=True, name="ids")
    assert Tensor(np.ones(2, dtype), double).shape == (2,)


def test_assign_changes_the_data_where_it_is(double: ReferenceBackend) -> None:
    weight = leaf(double, 2, 2)
    memory = weight.data
    weight.assign([[1, 2], [3, 4]])
    assert weight.data is memory
    np.testing.assert_array_equal(memory, [[1, 2], [3, 4]])


def test_assign_takes_no_other_shape(double: ReferenceBackend) -> None:
    weight = leaf(double, 2, 2)
    with pytest.raises(AutogradError, match=r"cannot assign shape \(2,\) to tensor 'weight' of \(2, 2\)"):
        weight.assign(np.ones(2))


# saved arrays that changed in place

LOWER = np.zeros((1, 3), np.int32)
SAVING_OPS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "multiply": (lambda x: elementwise.multiply(x, x), (3,)),
    "divide": (lambda x: elementwise.divide(x, x), (3,)),
    "log": (elementwise.log, (3,)),
    "power": (lambda x: elementwise.power(x, 3.0), (3,)),
    "matmul": (lambda x: matmul.matmul(x, x), (3, 3)),
    "linear": (lambda x: matmul.linear(x, x), (3, 3)),
    "activation": (activation.relu, (3,)),
    "swiglu": (lambda x: activation.swiglu(x, x), (3,)),
    "rms_norm": (lambda x: norm.rms_norm(x, x), (3,)),
    "layer_norm": (lambda x: norm.layer_norm(x, x, x), (3,)),
    "attention": (lambda x: attention.attention(x, x, x, LOWER, AttentionParams(1.0)), (1, 3, 1, 2)),
}


@pytest.mark.parametrize("change", ["assign", "mark_changed"])
@pytest.mark.parametrize("name", SAVING_OPS)
def test_an_input_that_changed_after_it_was_saved_is_refused(name: str, change: str, double: ReferenceBackend) -> None:
    function, sizes = SAVING_OPS[name]
    weight = leaf(double, *sizes, name="blk.3.weight")
    with Tape(scopes=("blk.3",)) as tape:
        loss = reduce.sum_(function(weight))
    if change == "assign":
        weight.assign(weight.data * 2)
    else:
        weight.data *= 2
        weight.mark_changed()
    with pytest.raises(AutogradError, match=rf"'blk.3.weight' was changed in place after '{name}' saved it \(blk.3\)"):
        tape.backward(loss)


@pytest.mark.parametrize("function", [elementwise.exp, elementwise.sqrt, elementwise.tanh, activation.softmax])
def test_an_output_that_changed_after_it_was_saved_is_refused(
    function: Callable[[Tensor], Tensor], double: ReferenceBackend
) -> None:
    with Tape() as tape:
        output = function(leaf(double, 2, 3))
        loss = reduce.sum_(output)
    output.assign(np.zeros((2, 3)))
    with pytest.raises(AutogradError, match=r"was changed in place after .* saved it \(top level\)"):
        tape.backward(loss)


VIEWS: dict[str, Callable[[Tensor], Tensor]] = {
    "reshape": lambda x: shape.reshape(x, (6,)),
    "slice": lambda x: shape.slice_(x, (slice(0, 1),)),
    "transpose": lambda x: shape.transpose(x, (0, 1)),
    "view of a view": lambda x: shape.slice_(shape.reshape(x, (6,)), slice(2, 4)),
}


@pytest.mark.parametrize("name", VIEWS)
@pytest.mark.parametrize("changed", ["base", "view"])
def test_a_view_changes_with_its_base(name: str, changed: str, double: ReferenceBackend) -> None:
    weight = leaf(double, 2, 3)
    with Tape() as tape:
        view = VIEWS[name](weight)
        saved = view if changed == "base" else weight
        loss = reduce.sum_(elementwise.log(saved))
    (weight if changed == "base" else view).mark_changed()
    with pytest.raises(AutogradError, match="was changed in place after 'log' saved it"):
        tape.backward(loss)


def test_a_copy_does_not_change_with_its_source(double: ReferenceBackend) -> None:
    weight = leaf(double, 2, 3)
    with Tape() as tape:
        copies = [
            shape.transpose(weight, (1, 0)),
            shape.slice_(weight, (slice(None), slice(0, 2))),
            shape.broadcast_to(weight, (2, 3)),
            shape.concatenate([weight]),
        ]
        losses = [reduce.sum_(elementwise.log(copy)) for copy in copies]
        loss = losses[0]
        for other in losses[1:]:
            loss = elementwise.add(loss, other)
    expected = np.ones((2, 3)) / weight.data * 3
    expected[:, :2] += 1 / weight.data[:, :2]
    weight.assign(np.zeros((2, 3)))
    tape.backward(loss)
    np.testing.assert_allclose(weight.grad, expected)


@pytest.mark.parametrize("n_before", [1, 2])
@pytest.mark.parametrize("n_after", [1, 2])
def test_a_change_after_earlier_changes_is_refused_too(n_before: int, n_after: int, double: ReferenceBackend) -> None:
    weight = leaf(double, 2)
    for _ in range(n_before):
        weight.mark_changed()
    with Tape() as tape:
        loss = reduce.sum_(elementwise.log(weight))
    for _ in range(n_after):
        weight.mark_changed()
    with pytest.raises(AutogradError, match="changed in place"):
        tape.backward(loss)


def test_a_change_between_two_passes_is_no_misuse(double: ReferenceBackend) -> None:
    weight = leaf(double, 2)
    for _ in range(2):
        weight.assign([2.0, 4.0])
        with Tape() as tape:
            loss = reduce.sum_(elementwise.log(weight))
        tape.backward(loss)
        weight.assign([1.0, 1.0])
    np.testing.assert_array_equal(weight.grad, [1.0, 0.5])


def test_a_change_of_what_no_op_saved_is_no_misuse(double: ReferenceBackend) -> None:
    weight = leaf(double, 2)
    with Tape() as tape:
        loss = reduce.sum_(elementwise.add(weight, weight))
    weight.assign([0.0, 0.0])
    tape.backward(loss)
    np.testing.assert_array_equal(weight.grad, [2.0, 2.0])


# dtypes


@pytest.mark.parametrize("shape_of_both", [(), (3,)])
@pytest.mark.parametrize("dtypes", [(np.float32, np.float64), (np.float64, np.float32), (np.float64, np.float64)])
@pytest.mark.parametrize("op", [elementwise.add, elementwise.multiply])
def test_arrays_of_another_dtype_do_not_reach_the_kernels(
    op: Callable[..., Tensor], dtypes: tuple[type, type], shape_of_both: tuple[int, ...], cpu: CpuBackend
) -> None:
    a, b = (Tensor(np.full(shape_of_both, 3.0, dtype), cpu, requires_grad=True) for dtype in dtypes)
    with Tape() as tape:
        y = op(op(a, b), a)
    tape.backward(y, np.ones(shape_of_both))
    assert y.data.dtype == np.float64
    for tensor, dtype, expected in ((a, dtypes[0], (2, 18)), (b, dtypes[1], (1, 9))):
        assert tensor.grad is not None
        assert tensor.grad.dtype == dtype
        np.testing.assert_array_equal(tensor.grad, np.full(shape_of_both, expected[op is elementwise.multiply]))


def test_losses_are_float64_and_may_be_combined_on_any_backend(cpu: CpuBackend) -> None:
    weight = Tensor(cpu.asarray(np.array([1.0, 2.0, 4.0])), cpu, requires_grad=True, name="weight")
    with Tape(detect_anomaly=True) as tape:
        exact = Tensor(np.array(3.0), cpu, requires_grad=True, name="exact")
        mixed = elementwise.multiply(reduce.mean(weight), exact)
        assert mixed.data.dtype == np.float64
        loss = elementwise.add(elementwise.scale(mixed, 0.5), elementwise.multiply(mixed, mixed))
    tape.backward(loss)
    mean = 7 / 3
    outer = 0.5 + 2 * 3 * mean
    assert weight.grad is not None
    assert exact.grad is not None
    assert weight.grad.dtype == np.float32, "a gradient has the dtype of its tensor"
    np.testing.assert_allclose(weight.grad, np.full(3, outer * 3 / 3), rtol=1e-6)
    np.testing.assert_allclose(exact.grad, outer * mean, rtol=1e-6)


@pytest.mark.skipif(not host_runtime.is_possible(), reason=host_runtime.NO_COMPILER)
def test_a_cast_for_products_is_made_again_only_when_the_data_change() -> None:
    backend = CudaBackend(host_runtime.HostRuntime(), "bfloat16")
    tensor = Tensor(backend.asarray(np.array([[1.0, 2.003]])), backend, requires_grad=True)
    first = tensor.for_products()
    assert first.dtype == backend.compute_dtype
    assert tensor.for_products() is first
    tensor.assign([[3.0, 4.0]])
    np.testing.assert_array_equal(backend.to_host(tensor.for_products()), [[3.0, 4.0]])
    rounded = Tensor(backend.asarray(np.array([[5.0, 6.0]])), backend)
    rounded.slot = tensor.slot
    np.testing.assert_array_equal(backend.to_host(rounded.for_products()), [[5.0, 6.0]])
    np.testing.assert_array_equal(backend.to_host(tensor.for_products()), [[3.0, 4.0]])


def test_data_of_the_right_type_are_their_own_cast(cpu: CpuBackend) -> None:
    tensor = Tensor(cpu.asarray([1.0, 2.0]), cpu)
    assert tensor.for_products() is tensor.data

"""What every optimizer promises beyond its formula: who is updated, who decays, and a state that can be put back."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.autograd.ops import elementwise, reduce
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.clipping import clip_factor
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError, FormatError, TrainingError
from entrenar_core.optim.adam import Adam, AdamW
from entrenar_core.optim.base import Optimizer, decays
from entrenar_core.optim.clip import clip
from entrenar_core.optim.sgd import SGD

DOUBLE = ReferenceBackend(np.float64)


def parameter(name: str, values: object, grad: object | None = None, backend: ReferenceBackend = DOUBLE) -> Tensor:
    """A trainable tensor, with a gradient if one is given."""
    tensor = Tensor(backend.asarray(np.array(values, backend.dtype)), backend, requires_grad=True, name=name)
    if grad is not None:
        tensor.slot.grad = backend.asarray(np.array(grad, backend.dtype))
    return tensor


def momentum_sgd(parameters: dict[str, Tensor]) -> SGD:
    return SGD(parameters, momentum=0.9)


ALL = pytest.mark.parametrize("make", [SGD, momentum_sgd, Adam, AdamW])
WITH_STATE = pytest.mark.parametrize("make", [momentum_sgd, Adam, AdamW])


def test_sgd_without_momentum_walks_down_the_gradient() -> None:
    weight = parameter("w", [[1.0, 2.0]], [[0.5, -1.0]])
    SGD({"w": weight}).step(lr=0.1)
    np.testing.assert_allclose(weight.data, [[0.95, 2.1]], rtol=1e-15)


def test_sgd_momentum_begins_with_the_first_gradient_and_decays_from_then_on() -> None:
    weight = parameter("w", [[0.0]])
    optimizer = SGD({"w": weight}, momentum=0.5)
    for grad in (1.0, 2.0):
        weight.slot.grad = np.array([[grad]])
        optimizer.step(lr=1.0)
    np.testing.assert_allclose(weight.data, [[-(1.0) - (0.5 * 1.0 + 2.0)]])


def test_nesterov_looks_ahead_along_the_momentum() -> None:
    weight = parameter("w", [[0.0]], [[1.0]])
    SGD({"w": weight}, momentum=0.5, nesterov=True).step(lr=1.0)
    np.testing.assert_allclose(weight.data, [[-1.5]])


@pytest.mark.parametrize("make", [Adam, AdamW])
def test_the_first_adam_step_has_the_size_of_the_learning_rate_whatever_the_gradient(make: type[Adam]) -> None:
    weight = parameter("w", [[0.0, 0.0, 0.0]], [[1e-3, -5.0, 1e6]])
    make({"w": weight}, weight_decay=0.0).step(lr=0.01)
    np.testing.assert_allclose(weight.data, [[-0.01, 0.01, -0.01]], rtol=1e-4)


def test_adamw_shrinks_a_weight_without_gradient_by_lr_times_decay() -> None:
    weight = parameter("w", [[2.0]], [[0.0]])
    AdamW({"w": weight}, weight_decay=0.1).step(lr=0.5)
    np.testing.assert_allclose(weight.data, [[2.0 * (1 - 0.05)]], rtol=1e-15)


def test_adam_adds_its_decay_to_the_gradient() -> None:
    plain, decayed = parameter("w", [[2.0]], [[1.0 + 0.1 * 2.0]]), parameter("w", [[2.0]], [[1.0]])
    Adam({"w": plain}).step(lr=0.5)
    Adam({"w": decayed}, weight_decay=0.1).step(lr=0.5)
    np.testing.assert_array_equal(decayed.data, plain.data)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("blk.0.attn_q.weight", (4, 4), True),
        ("token_embd.weight", (8, 4), True),
        ("blk.0.attn_q.weight.lora_a", (2, 4), True),
        ("blk.0.attn_norm.weight", (4,), False),
        ("blk.0.attn_q_norm.weight", (2, 2), False),
        ("output_norm.weight", (4,), False),
        ("blk.0.attn_q.bias", (1, 4), False),
        ("anything of one axis", (4,), False),
        ("a scalar", (), False),
    ],
)
def test_norms_biases_and_vectors_do_not_decay(name: str, shape: tuple[int, ...], expected: bool) -> None:
    assert decays(name, shape) is expected


@pytest.mark.parametrize("make", [SGD, Adam, AdamW])
def test_decay_reaches_matrices_only(make: type[Optimizer]) -> None:
    matrix, norm = parameter("a.weight", [[2.0]], [[0.0]]), parameter("a_norm.weight", [2.0], [0.0])
    make({"a.weight": matrix, "a_norm.weight": norm}, weight_decay=0.1).step(lr=0.1)  # type: ignore[call-arg]
    assert matrix.data[0, 0] < 2.0
    assert norm.data[0] == 2.0


@ALL
def test_a_clipped_step_is_that_of_a_scaled_gradient(make: type[Optimizer]) -> None:
    start, grad = [[1.0, -2.0]], np.array([[8.0, 4.0]])
    clipped, plain = parameter("w", start, grad), parameter("w", start, grad * clip_factor(np.sqrt(80.0), 2.0))
    assert make({"w": clipped}).step(lr=0.1, clipping=clip({"w": clipped}, max_norm=2.0))
    assert make({"w": plain}).step(lr=0.1)
    np.testing.assert_array_equal(clipped.data, plain.data)


@ALL
@pytest.mark.parametrize(("loss", "grad"), [(np.nan, 1.0), (np.inf, 1.0), (1.0, np.nan), (1.0, np.inf)])
def test_a_step_whose_loss_or_norm_is_not_finite_changes_nothing(
    make: type[Optimizer], loss: float, grad: float
) -> None:
    good, bad = parameter("a.weight", [[2.0]], [[1.0]]), parameter("b.weight", [[3.0]], [[grad]])
    optimizer = make({"a.weight": good, "b.weight": bad})
    before = {name: array.copy() for name, array in optimizer.state().items()}
    clipping = clip(optimizer.parameters, None, loss)
    assert not optimizer.step(lr=0.1, clipping=clipping)
    assert (good.data.item(), bad.data.item()) == (2.0, 3.0)
    for name, array in optimizer.state().items():
        np.testing.assert_array_equal(array, before[name])


@ALL
def test_a_tape_that_saved_a_parameter_notices_the_step(make: type[Optimizer]) -> None:
    weight = parameter("w", [[1.0]], [[1.0]])
    with Tape() as tape:
        square = reduce.sum_(elementwise.multiply(weight, weight))
    make({"w": weight}).step(lr=0.1)
    with pytest.raises(AutogradError, match="changed in place"):
        tape.backward(square)


@ALL
def test_a_parameter_without_gradient_stops_the_step_before_anything_changed(make: type[Optimizer]) -> None:
    reached, forgotten = parameter("a.weight", [[1.0]], [[1.0]]), parameter("b.weight", [[1.0]])
    optimizer = make({"a.weight": reached, "b.weight": forgotten})
    with pytest.raises(AutogradError, match=r"b\.weight"):
        optimizer.step(lr=0.1)
    assert reached.data[0, 0] == 1.0
    assert optimizer.steps_done == 0


@ALL
def test_zero_grad_forgets_every_gradient(make: type[Optimizer]) -> None:
    weight = parameter("w", [[1.0]], [[1.0]])
    make({"w": weight}).zero_grad()
    assert weight.grad is None


@ALL
def test_there_must_be_something_to_train(make: type[Optimizer]) -> None:
    with pytest.raises(TrainingError, match="nothing to train"):
        make({})


@ALL
def test_a_frozen_parameter_is_refused_by_name(make: type[Optimizer]) -> None:
    with pytest.raises(AutogradError, match=r"a\.weight"):
        make({"a.weight": Tensor(np.ones((2, 2)), DOUBLE, name="a.weight")})


@ALL
def test_parameters_are_visited_in_the_order_of_their_names(make: type[Optimizer]) -> None:
    optimizer = make({name: parameter(name, [[1.0]]) for name in ("c", "a", "b")})
    assert list(optimizer.parameters) == ["a", "b", "c"]


@ALL
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_going_on_from_a_saved_state_is_going_on(make: type[Optimizer], dtype: type) -> None:
    backend = ReferenceBackend(dtype)
    grads = np.random.default_rng(3).normal(size=(6, 2, 3)).astype(dtype)

    def run(optimizer: Optimizer, weight: Tensor, some: np.ndarray) -> None:
        for grad in some:
            weight.slot.grad = grad.copy()
            optimizer.step(lr=0.01)

    straight = parameter("w", np.ones((2, 3)), backend=backend)
    optimizer = make({"w": straight})
    run(optimizer, straight, grads[:4])
    saved = {name: array.copy() for name, array in optimizer.state().items()}
    resumed = parameter("w", straight.numpy().copy(), backend=backend)
    run(optimizer, straight, grads[4:])

    again = make({"w": resumed})
    again.load_state(saved)
    run(again, resumed, grads[4:])
    np.testing.assert_array_equal(resumed.data, straight.data)
    assert again.steps_done == 6


@WITH_STATE
def test_state_arrays_have_the_type_and_shape_of_their_parameter(make: type[Optimizer]) -> None:
    weight = parameter("w", np.ones((2, 3)), backend=ReferenceBackend(np.float32))
    arrays = [array for name, array in make({"w": weight}).state().items() if name != "step"]
    assert arrays
    assert all(array.shape == (2, 3) and array.dtype == np.float32 for array in arrays)


@WITH_STATE
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state, name: state.pop(name), "is missing"),
        (lambda state, name: state.update({name: np.ones((3, 2))}), r"shape \(3, 2\).*\(2, 3\)"),
        (lambda state, name: state.update({name: np.ones((2, 3), np.float32)}), "float32.*float64"),
        (lambda state, name: state.update({"of nobody": np.ones(1)}), "of nobody"),
    ],
)
def test_a_state_that_does_not_fit_is_refused_by_name_and_changes_nothing(
    make: type[Optimizer], spoil: object, message: str
) -> None:
    optimizer = make({"w": parameter("w", np.ones((2, 3)))})
    state = {name: array + 1 for name, array in optimizer.state().items()}
    spoil(state, next(name for name in state if name != "step"))  # type: ignore[operator]
    with pytest.raises(FormatError, match=message):
        optimizer.load_state(state)
    assert optimizer.steps_done == 0
    assert not any(array.any() for array in optimizer.state().values())


def test_the_state_of_another_optimizer_is_refused() -> None:
    weight = parameter("w", np.ones((2, 3)))
    with pytest.raises(FormatError, match="momentum"):
        momentum_sgd({"w": weight}).load_state(Adam({"w": weight}).state())

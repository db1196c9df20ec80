"""The gradient checker: it passes right gradients, and finds wrong ones of every kind that a test could miss."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from entrenar_core.autograd.gradcheck import ELEMENTWISE_LIMIT, GradientError, check_gradients, gradient_errors
from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops import activation, elementwise, matmul, reduce
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.errors import AutogradError

Array = np.ndarray


class Planted(Op):
    """a @ b with a gradient of the test's choice."""

    name = "planted"

    @staticmethod
    def forward(context: Context, a: Array, b: Array, backward: Callable[..., Sequence[Array]]) -> Array:
        context.save(a, b)
        context.params["backward"] = backward
        return a @ b

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array]:
        return context.params["backward"](grad, *context.saved)


def right(grad: Array, a: Array, b: Array) -> list[Array]:
    return [grad @ b.T, a.T @ grad]


def wrong_in_one_element(grad: Array, a: Array, b: Array) -> list[Array]:
    da, db = right(grad, a, b)
    db[1, 2] += 0.05 * np.abs(db).max()
    return [da, db]


WRONG: dict[str, tuple[int, Callable[..., list[Array]]]] = {
    "scaled": (1, lambda grad, a, b: [grad @ b.T, 1.01 * a.T @ grad]),
    "sign": (0, lambda grad, a, b: [-grad @ b.T, a.T @ grad]),
    "transposed": (0, lambda grad, a, b: [(grad @ b.T).T.copy(), a.T @ grad]),
    "missing": (1, lambda grad, a, b: [grad @ b.T, np.zeros_like(b)]),
    "absent": (1, lambda grad, a, b: [grad @ b.T, None]),
    "not the upstream gradient": (0, lambda grad, a, b: [np.ones_like(grad) @ b.T, a.T @ grad]),
    "one element": (1, wrong_in_one_element),
    "NaN": (0, lambda grad, a, b: [np.nan * a, a.T @ grad]),
    "one NaN": (1, lambda grad, a, b: [grad @ b.T, np.where(np.eye(3) > 0, np.nan, a.T @ grad)]),
    "infinite": (1, lambda grad, a, b: [grad @ b.T, np.inf * np.ones_like(b)]),
}


def planted(backward: Callable[..., Sequence[Array]]) -> Callable[..., Tensor]:
    return lambda a, b: apply(Planted, a, b, backward=backward)


def square_inputs(rng: np.random.Generator) -> list[Array]:
    return [rng.standard_normal((3, 3)), rng.standard_normal((3, 3))]


def test_a_right_gradient_passes_with_a_small_error(double: ReferenceBackend, rng: np.random.Generator) -> None:
    assert check_gradients(planted(right), square_inputs(rng), double) < 1e-7


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_wrong_gradient_is_found_and_its_input_named(
    name: str, double: ReferenceBackend, rng: np.random.Generator
) -> None:
    index, backward = WRONG[name]
    with pytest.raises(AutogradError, match=f"^gradient of input {index} is wrong in (random direction|element)"):
        check_gradients(planted(backward), square_inputs(rng), double)


def test_the_wrong_element_is_named_with_both_values(double: ReferenceBackend, rng: np.random.Generator) -> None:
    a, b = square_inputs(rng)
    errors = gradient_errors(planted(wrong_in_one_element), [a, b], double)
    wrong = {(error.input_index, error.what) for error in errors if error.relative > 1e-3 and "element" in error.what}
    assert wrong == {(1, "element (1, 2)")}
    with pytest.raises(AutogradError, match=r"analytic [-\d.e]+, finite difference [-\d.e]+ \(relative error \d"):
        check_gradients(planted(wrong_in_one_element), [a, b], double)


def test_an_error_that_cancels_under_an_upstream_gradient_of_ones_is_found(
    double: ReferenceBackend, rng: np.random.Generator
) -> None:
    class UnscaledSoftmax(activation.Softmax):
        """Wrong by a factor of two; for an upstream gradient of ones both are zero."""

        @staticmethod
        def backward(context: Context, grad: Array) -> Sequence[Array]:
            (y,) = context.saved
            return [2 * y * (grad - (grad * y).sum(axis=-1, keepdims=True))]

    with pytest.raises(AutogradError, match="gradient of input 0 is wrong"):
        check_gradients(lambda x: apply(UnscaledSoftmax, x), [rng.standard_normal((2, 4))], double)


@pytest.mark.parametrize("factor", [1e-5, 1e5])
def test_the_size_of_the_function_does_not_matter(
    factor: float, double: ReferenceBackend, rng: np.random.Generator
) -> None:
    def scaled(backward: Callable[..., Sequence[Array]]) -> Callable[..., Tensor]:
        return lambda a, b: elementwise.scale(planted(backward)(a, b), factor)

    assert check_gradients(scaled(right), square_inputs(rng), double) < 1e-3
    with pytest.raises(AutogradError, match="gradient of input 1 is wrong"):
        check_gradients(scaled(WRONG["scaled"][1]), square_inputs(rng), double)


def test_an_input_without_influence_has_a_gradient_of_zero(double: ReferenceBackend) -> None:
    assert check_gradients(lambda a, b: elementwise.exp(a), [np.ones(2), np.ones(2)], double) < 1e-6


def test_a_scalar_function_of_a_scalar(double: ReferenceBackend) -> None:
    assert check_gradients(elementwise.exp, [np.array(0.3)], double) < 1e-8


def test_a_function_that_is_not_finite_is_wrong(double: ReferenceBackend) -> None:
    with np.errstate(invalid="ignore"), pytest.raises(AutogradError, match="finite difference nan"):
        check_gradients(elementwise.log, [np.array([-1.0])], double)


def test_a_kink_is_found_where_an_input_lies_on_it(double: ReferenceBackend) -> None:
    with pytest.raises(AutogradError, match=r"element \(1,\)|random direction"):
        check_gradients(activation.relu, [np.array([1.0, 0.0])], double)


def test_large_inputs_are_checked_in_random_directions_only(double: ReferenceBackend) -> None:
    def what(n: int) -> list[str]:
        errors = gradient_errors(lambda x: reduce.sum_(elementwise.exp(x)), [np.zeros(n)], double, directions=3)
        return [error.what for error in errors]

    assert what(ELEMENTWISE_LIMIT + 1) == [f"random direction {i}" for i in range(3)]
    assert what(ELEMENTWISE_LIMIT)[3:] == [f"element ({i},)" for i in range(ELEMENTWISE_LIMIT)]


def test_an_error_in_a_large_input_is_found_by_random_directions(
    double: ReferenceBackend, rng: np.random.Generator
) -> None:
    def backward(grad: Array, a: Array, b: Array) -> list[Array]:
        da, db = right(grad, a, b)
        db[7] = 0
        return [da, db]

    with pytest.raises(AutogradError, match="gradient of input 1 is wrong in random direction"):
        check_gradients(planted(backward), [rng.standard_normal((4, 16)), rng.standard_normal((16, 16))], double)


def test_an_error_in_a_large_input_that_cancels_in_its_sum_is_found(
    double: ReferenceBackend, rng: np.random.Generator
) -> None:
    def backward(grad: Array, a: Array, b: Array) -> list[Array]:
        da, db = right(grad, a, b)
        db[7] += 1
        db[8] -= 1
        return [da, db]

    with pytest.raises(AutogradError, match="gradient of input 1 is wrong in random direction"):
        check_gradients(planted(backward), [rng.standard_normal((4, 16)), rng.standard_normal((16, 16))], double)


def test_the_defaults_fit_float64(double: ReferenceBackend) -> None:
    errors = gradient_errors(elementwise.exp, [np.array(0.3)], double)
    assert [error.what for error in errors] == [*(f"random direction {i}" for i in range(4)), "element ()"]
    assert max(error.relative for error in errors) < 1e-8


def test_an_input_whose_gradient_has_another_shape_is_named(double: ReferenceBackend, rng: np.random.Generator) -> None:
    def backward(grad: Array, a: Array, b: Array) -> list[Array]:
        return [grad @ b.T, (a.T @ grad)[:1]]

    with pytest.raises(AutogradError, match="for tensor 'input 1' of shape"):
        check_gradients(planted(backward), square_inputs(rng), double)


def test_the_tolerance_and_the_step_are_the_callers(double: ReferenceBackend, rng: np.random.Generator) -> None:
    function, inputs = planted(WRONG["scaled"][1]), square_inputs(rng)
    assert 0.005 < check_gradients(function, inputs, double, tolerance=0.05) < 0.02
    cube = check_gradients(lambda x: elementwise.power(x, 3.0), [np.ones(1)], double, eps=0.1, tolerance=1.0)
    np.testing.assert_allclose(cube, 0.01 / 3.01, rtol=1e-6)  # ((1+e)³ - (1-e)³)/2e = 3 + e²


def test_the_seed_chooses_the_upstream_gradient_and_the_directions(
    double: ReferenceBackend, rng: np.random.Generator
) -> None:
    x = rng.standard_normal((3, 3))

    def analytic(seed: int) -> list[float]:
        errors = gradient_errors(lambda x: matmul.matmul(x, x), [x], double, seed=seed)
        return [error.analytic for error in errors]

    assert analytic(0) == analytic(0)
    assert analytic(0) != analytic(1)


def test_the_inputs_are_left_alone(double: ReferenceBackend, rng: np.random.Generator) -> None:
    x = rng.standard_normal((2, 2))
    before = x.copy()
    check_gradients(elementwise.exp, [x], double)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize(
    ("analytic", "numeric", "typical", "expected"),
    [
        (2.0, 1.0, 1.0, 0.5),
        (1.0, -1.0, 1.0, 2.0),
        (0.0, 1e-4, 1.0, 0.01),  # one hundredth of the largest is the least that counts
        (0.0, 1e-10, 0.0, 1e-4),  # rounding
        (5.0, 5.0, 5.0, 0.0),
    ],
)
def test_the_relative_error(analytic: float, numeric: float, typical: float, expected: float) -> None:
    np.testing.assert_allclose(GradientError(0, "element", analytic, numeric, typical).relative, expected)

"""Finite-difference gradient checks, as a tool for any function of tensors.

The function's output is projected on a random upstream gradient u, which makes a scalar s(x) = <u, f(x)>. For random
directions d the central difference (s(x+εd) - s(x-εd)) / 2ε must equal <∂s/∂x, d>; small inputs are also checked one
element at a time, which names the wrong one. A constant upstream gradient would miss errors that cancel in a sum.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.autograd.tape import Tape, no_grad
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.errors import AutogradError

Function = Callable[..., Tensor]

ELEMENTWISE_LIMIT = 200
"""Inputs with at most this many elements are also checked one element at a time."""

ROUNDING_FLOOR = 1e-6
"""A central difference of a function of size 1 is off by about 1e-10 in float64, whatever its true value."""


@dataclass(frozen=True)
class GradientError:
    """How far one analytic derivative is from its finite difference.

    `typical` is the largest finite difference of the same input: it says how small a derivative may be and still be
    worth comparing.
    """

    input_index: int
    what: str
    analytic: float
    numeric: float
    typical: float

    @property
    def relative(self) -> float:
        """|analytic - numeric| / max(|analytic|, |numeric|, typical/100, 1e-6), the last against rounding."""
        size = max(abs(self.analytic), abs(self.numeric), self.typical / 100, ROUNDING_FLOOR)
        return abs(self.analytic - self.numeric) / size


def gradient_errors(
    function: Function,
    inputs: Sequence[np.ndarray],
    backend: Backend,
    *,
    eps: float = 1e-6,
    directions: int = 4,
    seed: int = 0,
) -> list[GradientError]:
    """Compare the gradients of `function` with finite differences at `inputs`.

    Args:
        function: maps tensors, one for each input, to one tensor of any shape. It must be smooth near the inputs.
        inputs: float64 arrays; the backend must compute in float64 for `eps` to make sense.
        backend: where it runs, e.g. ``ReferenceBackend(np.float64)``.
        eps: step of the central difference.
        directions: random directions for each input.
        seed: of the upstream gradient and the directions.
    """
    rng = np.random.default_rng(seed)
    arrays = [backend.asarray(values).copy() for values in inputs]
    tensors = [Tensor(array, backend, requires_grad=True, name=f"input {i}") for i, array in enumerate(arrays)]
    with Tape() as tape:
        output = function(*tensors)
    upstream = rng.standard_normal(output.shape)
    tape.backward(output, upstream.astype(output.data.dtype))

    def projected(index: int, values: np.ndarray) -> float:
        shifted = [Tensor(array, backend) for array in arrays]
        shifted[index] = Tensor(backend.asarray(values), backend)
        with no_grad():
            return float((backend.to_host(function(*shifted).data) * upstream).sum())

    errors: list[GradientError] = []
    for index, (array, tensor) in enumerate(zip(arrays, tensors, strict=True)):
        host = backend.to_host(array)
        grad = np.zeros(host.shape) if tensor.grad is None else backend.to_host(tensor.grad)
        compared: list[tuple[str, float, float]] = []
        for what, direction in _directions(host.shape, directions, rng):
            difference = projected(index, host + eps * direction) - projected(index, host - eps * direction)
            compared.append((what, float((grad * direction).sum()), difference / (2 * eps)))
        typical = max((abs(numeric) for _, _, numeric in compared if np.isfinite(numeric)), default=0.0)
        errors += [GradientError(index, what, analytic, numeric, typical) for what, analytic, numeric in compared]
    return errors


def check_gradients(
    function: Function, inputs: Sequence[np.ndarray], backend: Backend, *, tolerance: float = 1e-3, eps: float = 1e-6
) -> float:
    """The largest relative error of `gradient_errors`.

    Raises:
        AutogradError: it is at least `tolerance`; the message names the input and the direction or element.
    """
    worst = max(gradient_errors(function, inputs, backend, eps=eps), key=_badness)
    if not worst.relative < tolerance:
        raise AutogradError(
            f"gradient of input {worst.input_index} is wrong in {worst.what}: analytic {worst.analytic:.6g},"
            f" finite difference {worst.numeric:.6g} (relative error {worst.relative:.2e})"
        )
    return worst.relative


def _badness(error: GradientError) -> float:
    return np.inf if np.isnan(error.relative) else error.relative


def _directions(shape: tuple[int, ...], n_random: int, rng: np.random.Generator) -> list[tuple[str, np.ndarray]]:
    result: list[tuple[str, np.ndarray]] = []
    for i in range(n_random):
        result.append((f"random direction {i}", np.asarray(rng.standard_normal(shape))))
    if int(np.prod(shape)) <= ELEMENTWISE_LIMIT:
        for element in np.ndindex(*shape):
            unit = np.zeros(shape)
            unit[element] = 1.0
            result.append((f"element {element}", unit))
    return result

"""The clipping of a step: by the global norm of all its gradients; see `backend.clipping`."""

from __future__ import annotations

from collections.abc import Mapping

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.backend.clipping import Clipping
from entrenar_core.optim.base import gradients


def clip(parameters: Mapping[str, Tensor], max_norm: float | None, loss: Array | float = 0.0) -> Clipping:
    """How the gradients of all parameters are clipped to a global norm (None: not at all), for `Optimizer.step`.

    The norm is summed in float64. `loss` is the step's, on the parameters' backend: no step is taken unless it is
    finite too.

    Raises:
        AutogradError: a parameter has no gradient.
    """
    grads = gradients(parameters)
    backend = next(iter(parameters.values())).backend
    return backend.plan_clipping(list(grads.values()), max_norm, loss)

"""Clipping by the global norm (Pascanu et al. 2013): one norm over all gradients, one factor for all of them.

The factor is not applied here; it is handed to the optimizer's fused step, which saves a pass over the gradients.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.optim.base import gradients

EPS = 1e-6
"""Added to the norm, as in torch.nn.utils.clip_grad_norm_."""


def global_norm(parameters: Mapping[str, Tensor]) -> float:
    """√Σg² over the gradients of all parameters, summed in float64; NaN or inf if any of them is.

    Raises:
        AutogradError: a parameter has no gradient.
    """
    grads = gradients(parameters)
    return math.sqrt(sum(parameters[name].backend.sum_of_squares(grad) for name, grad in grads.items()))


def clip_factor(norm: float, max_norm: float | None) -> float:
    """min(1, max_norm/(norm + 1e-6)), by which gradients of this global norm are multiplied; 1 without a limit."""
    if max_norm is None:
        return 1.0
    return min(1.0, max_norm / (norm + EPS))

"""Optimizer updates on the CPU: the numbers of a step as the kernels want them, elements shared out over threads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.backend.cpu_arguments import optimizer_states
from entrenar_core.backend.cpu_kernels import optimizer
from entrenar_core.backend.parameters import AdamParams, SGDParams
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

_GRAIN = 16384
"""Elements per thread below which the caller does it alone."""


def adam_steps(
    threads: Threads, arrays: Sequence[tuple[NDArray, NDArray, NDArray, NDArray]], params: AdamParams, factor: float
) -> None:
    """See `AdamParams`; of each (parameter, gradient, m, v) all but the gradient change in place. `factor` is the
    gradients'."""
    coefficients = np.array([factor, *params.coefficients], np.float32)
    for parameter, grad, m, v in arrays:
        states = optimizer_states("adam_steps", parameter, grad, m, v)
        threads.run(optimizer.adam, parameter.size, *states, coefficients, grain=_GRAIN)


def sgd_steps(
    threads: Threads, arrays: Sequence[tuple[NDArray, NDArray, NDArray | None]], params: SGDParams, factor: float
) -> None:
    """See `SGDParams`; of each (parameter, gradient, buffer) all but the gradient change in place."""
    rates = (float(params.lr), float(params.weight_decay), float(factor))
    moving = (float(params.momentum), bool(params.nesterov), bool(params.first_step))
    for parameter, grad, buffer in arrays:
        if buffer is None:
            states = optimizer_states("sgd_steps", parameter, grad)
            threads.run(optimizer.sgd, parameter.size, *states, *rates, grain=_GRAIN)
        else:
            states = optimizer_states("sgd_steps", parameter, grad, buffer)
            threads.run(optimizer.sgd_momentum, parameter.size, *states, *rates, *moving, grain=_GRAIN)

"""Optimizer updates on the CPU: the numbers of a step as the kernels want them, elements shared out over threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from entrenar_core.backend.cpu_arguments import optimizer_states
from entrenar_core.backend.cpu_kernels import optimizer
from entrenar_core.backend.parameters import AdamParams, SGDParams
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

_GRAIN = 16384
"""Elements per thread below which the caller does it alone."""


def adam_step(threads: Threads, parameter: NDArray, grad: NDArray, m: NDArray, v: NDArray, params: AdamParams) -> None:
    """See `AdamParams`; parameter, m and v change in place."""
    decay = params.weight_decay
    coefficients = np.array(
        [
            params.grad_scale,
            0.0 if params.decoupled else decay,
            1 - params.lr * decay if params.decoupled else 1.0,
            params.beta1,
            1 - params.beta1,
            params.beta2,
            1 - params.beta2,
            params.lr / (1 - params.beta1**params.step),
            1 / math.sqrt(1 - params.beta2**params.step),
            params.eps,
        ],
        np.float32,
    )
    arrays = optimizer_states("adam_step", parameter, grad, m, v)
    threads.run(optimizer.adam, parameter.size, *arrays, coefficients, grain=_GRAIN)


def sgd_step(threads: Threads, parameter: NDArray, grad: NDArray, buffer: NDArray | None, params: SGDParams) -> None:
    """See `SGDParams`; parameter and buffer change in place."""
    rates = (float(params.lr), float(params.weight_decay), float(params.grad_scale))
    if buffer is None:
        arrays = optimizer_states("sgd_step", parameter, grad)
        threads.run(optimizer.sgd, parameter.size, *arrays, *rates, grain=_GRAIN)
        return
    arrays = optimizer_states("sgd_step", parameter, grad, buffer)
    moving = (float(params.momentum), bool(params.nesterov), bool(params.first_step))
    threads.run(optimizer.sgd_momentum, parameter.size, *arrays, *rates, *moving, grain=_GRAIN)

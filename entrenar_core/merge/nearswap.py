"""NearSwap: takes over from a second model the values that are near those of the first."""

from __future__ import annotations

import numpy as np

from entrenar_core.merge.passes import Floats, Inputs, Parameters, Passes, TensorFacts

_NEAREST = np.float32(1e-6)
"""Values that are nearer than this count as this near."""


def nearswap(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """w·b + (1 − w)·a with w = t / |a − b| between 0 and 1: the nearer the values, the more of the second model."""

    def combine(inputs: Inputs, out: Floats) -> None:
        first, second = inputs.models
        weight = np.float32(parameters.t) / np.maximum(np.abs(first - second), _NEAREST)
        np.clip(weight, 0, 1, out=weight)
        np.multiply(weight, second, out=out)
        out += (1 - weight) * first

    return combine
    yield

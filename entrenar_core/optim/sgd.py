"""Stochastic gradient descent with momentum (Polyak 1964) and Nesterov's look-ahead (Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.backend.parameters import SGDParams
from entrenar_core.optim.base import Optimizer

MOMENTUM = "momentum"


class SGD(Optimizer):
    """g = grad + weight_decay·p; buffer = momentum·buffer + g; p -= lr·buffer, as in torch.optim.SGD.

    The buffer begins as the first gradient, and exists only with a momentum. With `nesterov` the update is
    g + momentum·buffer.
    """

    slots: ClassVar[tuple[str, ...]] = (MOMENTUM,)

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        momentum: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
    ) -> None:
        self.momentum = momentum
        self.nesterov = nesterov
        super().__init__(parameters, weight_decay=weight_decay)

    def used_slots(self) -> tuple[str, ...]:
        return self.slots if self.momentum else ()

    def update(
        self,
        parameter: Tensor,
        grad: Array,
        arrays: Mapping[str, Array],
        lr: float,
        weight_decay: float,
        grad_scale: float,
    ) -> None:
        params = SGDParams(lr, self.momentum, self.nesterov, weight_decay, self.steps_done == 1, grad_scale)
        parameter.backend.sgd_step(parameter.data, grad, arrays.get(MOMENTUM), params)

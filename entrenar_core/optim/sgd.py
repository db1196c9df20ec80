"""Stochastic gradient descent with momentum (Polyak 1964) and Nesterov's look-ahead (Sutskever et al. 2013)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.clipping import Clipping
from entrenar_core.backend.parameters import SGDParams
from entrenar_core.optim.base import Optimizer, Update

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
        backend: Backend,
        updates: Sequence[Update],
        lr: float,
        weight_decay: float,
        clipping: Clipping | None,
    ) -> None:
        params = SGDParams(lr, self.momentum, self.nesterov, weight_decay, first_step=self.steps_done == 0)
        arrays = [(each.parameter, each.grad, each.state.get(MOMENTUM)) for each in updates]
        backend.sgd_steps(arrays, params, clipping)

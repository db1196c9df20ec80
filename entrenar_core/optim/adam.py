"""Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), with bias correction, as in torch.optim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.clipping import Clipping
from entrenar_core.backend.parameters import AdamParams
from entrenar_core.optim.base import Optimizer, Update


class Adam(Optimizer):
    """p -= lr·m̂/(√v̂ + eps), where m̂ and v̂ are running means of the gradient and of its square.

    Args:
        parameters: trainable tensors by name.
        betas: decay of the two means.
        eps: added to the denominator.
        weight_decay: Adam adds it to the gradient (L2), AdamW shrinks the parameter directly.
    """

    slots: ClassVar[tuple[str, ...]] = ("m", "v")
    decoupled: ClassVar[bool] = False

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        self.betas = betas
        self.eps = eps
        super().__init__(parameters, weight_decay=weight_decay)

    def update(
        self,
        backend: Backend,
        updates: Sequence[Update],
        lr: float,
        weight_decay: float,
        clipping: Clipping | None,
    ) -> None:
        params = AdamParams(lr, *self.betas, self.eps, weight_decay, self.decoupled, step=self.steps_done + 1)
        arrays = [(each.parameter, each.grad, each.state["m"], each.state["v"]) for each in updates]
        backend.adam_steps(arrays, params, clipping)


class AdamW(Adam):
    """Adam whose weight decay is decoupled: p -= lr·weight_decay·p, before the update."""

    decoupled: ClassVar[bool] = True

    def __init__(
        self,
        parameters: Mapping[str, Tensor],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:
        super().__init__(parameters, betas=betas, eps=eps, weight_decay=weight_decay)

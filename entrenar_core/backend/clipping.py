"""Clipping by the global norm (Pascanu et al. 2013): one norm over all gradients, one factor for all of them.

The factor is handed to the optimizer's fused step, which saves a pass over the gradients. A device need not tell it to
the host for that, so a step is queued before its loss and its norm are read; the step itself changes nothing where one
of them is not finite.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

EPS = 1e-6
"""Added to the norm, as in torch.nn.utils.clip_grad_norm_."""


@dataclass(frozen=True)
class LossAndNorm:
    """Of one optimizer step: its loss, and the global norm √Σg² of its gradient."""

    loss: float
    norm: float

    @property
    def are_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.norm)


class Clipping(Protocol):
    """What an update multiplies its gradients by, wherever that is known."""

    def read(self) -> LossAndNorm:
        """What the factor comes from; waits for a device, the first time."""
        ...


@dataclass(frozen=True)
class HostClipping:
    """`Clipping` of a backend whose numbers are on the host."""

    values: LossAndNorm
    max_norm: float | None

    def read(self) -> LossAndNorm:
        return self.values


def clip_factor(norm: float, max_norm: float | None) -> float:
    """min(1, max_norm/(norm + 1e-6)), by which gradients of this global norm are multiplied; 1 without a limit."""
    if max_norm is None:
        return 1.0
    return min(1.0, max_norm / (norm + EPS))


def host_factor(clipping: Clipping | None) -> float | None:
    """The factor of a `HostClipping`, 1 for none; None if loss or norm are not finite, so that nothing may change.

    Raises:
        TypeError: a clipping of another backend.
    """
    if clipping is None:
        return 1.0
    if not isinstance(clipping, HostClipping):
        raise TypeError(f"a clipping of numbers on the host is needed, not a {type(clipping).__name__}")
    return clip_factor(clipping.values.norm, clipping.max_norm) if clipping.values.are_finite else None


def host_clipping(squares: Iterable[float], max_norm: float | None, loss: Any) -> HostClipping:
    """From Σg² of each gradient and the step's loss, a scalar."""
    return HostClipping(LossAndNorm(float(loss), math.sqrt(sum(squares))), max_norm)

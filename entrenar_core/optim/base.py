"""What all optimizers share: parameters in the order of their names, state arrays beside them, fused steps.

An optimizer updates parameters in place through the backend's kernels, from the gradients that a tape left on them.
Its state is a flat dict of arrays, so that a checkpoint can write it and put it back bit by bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, Backend
from entrenar_core.backend.clipping import Clipping
from entrenar_core.errors import AutogradError, TrainingError
from entrenar_core.optim.arrays import require_same_arrays

STEP = "step"
"""Name of the step counter among the state arrays."""


def decays(name: str, shape: tuple[int, ...]) -> bool:
    """Whether weight decay applies: to matrices, but not to norms, biases and other vectors."""
    return len(shape) > 1 and not name.endswith(("_norm.weight", ".bias"))


@dataclass(frozen=True)
class Update:
    """A parameter, its gradient, and its state arrays by their slots."""

    parameter: Array
    grad: Array
    state: Mapping[str, Array]


class Optimizer(ABC):
    """Base of all optimizers; a subclass names its state arrays in `slots` and writes `update`.

    Args:
        parameters: trainable tensors by name.
        weight_decay: strength, for the parameters that decay at all (see `decays`).

    Raises:
        TrainingError: there is no parameter.
        AutogradError: a parameter is frozen.
    """

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(self, parameters: Mapping[str, Tensor], *, weight_decay: float = 0.0) -> None:
        if not parameters:
            raise TrainingError("there is nothing to train: no parameter wants a gradient")
        for name, parameter in parameters.items():
            if not parameter.requires_grad:
                raise AutogradError(f"parameter {name!r} is frozen and cannot be trained")
        self.parameters = dict(sorted(parameters.items()))
        self.weight_decay = weight_decay
        self.steps_done = 0
        self._weight_decays = {
            name: weight_decay if decays(name, parameter.shape) else 0.0 for name, parameter in self.parameters.items()
        }
        self._arrays: dict[str, dict[str, Array]] = {
            name: {slot: p.backend.zeros(p.shape, p.data.dtype) for slot in self.used_slots()}
            for name, p in self.parameters.items()
        }

    def used_slots(self) -> tuple[str, ...]:
        """The state arrays that these settings need."""
        return self.slots

    def step(self, lr: float, clipping: Clipping | None = None) -> bool:
        """Update every parameter from its gradient, clipped if that is asked for (see `clip.clip`).

        Returns: whether it was done. With a clipping whose loss or norm is not finite it is not, and nothing has been
        changed; to know, the host waits for a device once the update is queued.

        Raises:
            AutogradError: a parameter has no gradient, which means that the loss does not depend on it; nothing has
                been changed then.
        """
        grads = gradients(self.parameters)
        for weight_decay in sorted(set(self._weight_decays.values())):
            names = [name for name, own in self._weight_decays.items() if own == weight_decay]
            updates = [Update(self.parameters[name].data, grads[name], self._arrays[name]) for name in names]
            self.update(self.parameters[names[0]].backend, updates, lr, weight_decay, clipping)
        if clipping is not None and not clipping.read().are_finite:
            return False
        self.steps_done += 1
        for parameter in self.parameters.values():
            parameter.mark_changed()
        return True

    @abstractmethod
    def update(
        self,
        backend: Backend,
        updates: Sequence[Update],
        lr: float,
        weight_decay: float,
        clipping: Clipping | None,
    ) -> None:
        """Change parameters and their state arrays in place; `steps_done` does not count this step yet."""

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters.values():
            parameter.zero_grad()

    def state(self) -> dict[str, np.ndarray]:
        """The step counter (int64, a scalar) and the state arrays as ``<slot>.<parameter>``, on the host.

        The arrays may share memory with the optimizer: write or copy them before the next step.
        """
        state = {STEP: np.array(self.steps_done, np.int64)}
        for name, parameter in self.parameters.items():
            for slot, array in self._arrays[name].items():
                state[f"{slot}.{name}"] = parameter.backend.to_host(array)
        return state

    def load_state(self, state: Mapping[str, np.ndarray], where: str = "optimizer state") -> None:
        """Put back what `state` gave.

        Raises:
            FormatError: an array is missing, unknown, or of another shape or type; nothing has been changed then.
        """
        require_same_arrays(state, self.state(), where)
        self.steps_done = int(state[STEP])
        for name, parameter in self.parameters.items():
            for slot, array in self._arrays[name].items():
                array[...] = parameter.backend.asarray(state[f"{slot}.{name}"], array.dtype)


def gradients(parameters: Mapping[str, Tensor]) -> dict[str, Array]:
    """The gradient of every parameter.

    Raises:
        AutogradError: some have none; the message names the first of them.
    """
    grads = {name: parameter.grad for name, parameter in parameters.items()}
    missing = [name for name, grad in grads.items() if grad is None]
    if missing:
        raise AutogradError(
            f"parameter {missing[0]!r} has no gradient ({len(missing)} of {len(grads)} have none)",
            hint="the loss does not depend on it: freeze it, or run backward before the optimizer",
        )
    return grads

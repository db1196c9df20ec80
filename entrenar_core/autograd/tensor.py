"""A tensor: an array of a backend, and the slot where its gradient will arrive.

The slot is an object of its own, so that the tape can route gradients without keeping activations alive: a node refers
to slots, and only to those arrays that its op asked to save.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import AutogradError


class GradSlot:
    """Where one tensor's gradient accumulates.

    `shared` says that `grad` may be somebody else's buffer too, so it must not be changed in place. `version` counts
    in-place changes of the tensor's data. A leaf (a parameter) keeps its gradient; others lose it during backward.
    """

    __slots__ = ("grad", "is_leaf", "name", "shape", "shared", "version")

    def __init__(self, shape: tuple[int, ...], *, is_leaf: bool, name: str) -> None:
        self.shape = shape
        self.is_leaf = is_leaf
        self.name = name
        self.grad: Array | None = None
        self.shared = False
        self.version = 0

    def accumulate(self, grad: Array, backend: Backend, *, shared: bool) -> None:
        """Add a gradient of this slot's shape; takes the buffer over unless it is `shared`.

        Raises:
            AutogradError: the gradient has another shape.
        """
        if grad.shape != self.shape:
            raise AutogradError(f"gradient of shape {grad.shape} for tensor {self.name!r} of shape {self.shape}")
        if grad is self.grad:
            return
        if self.grad is None:
            copies = shared and self.is_leaf
            self.grad = backend.scale(grad, 1.0) if copies else grad
            self.shared = shared and not copies
        elif self.shared:
            self.grad = backend.add(self.grad, grad)
            self.shared = False
        else:
            backend.add(self.grad, grad, out=self.grad)


class Tensor:
    """An array with an optional gradient.

    Args:
        data: array of `backend`, any shape.
        backend: whose kernels the ops on this tensor call.
        requires_grad: whether gradients flow to it.
        name: the GGUF tensor name for parameters; shown in errors.
    """

    __slots__ = ("backend", "data", "requires_grad", "slot")

    def __init__(
        self, data: Array, backend: Backend, *, requires_grad: bool = False, name: str = "", is_leaf: bool = True
    ) -> None:
        self.data = data
        self.backend = backend
        self.requires_grad = requires_grad
        self.slot = GradSlot(tuple(data.shape), is_leaf=is_leaf, name=name)

    @property
    def shape(self) -> tuple[int, ...]:
        return self.slot.shape

    @property
    def name(self) -> str:
        return self.slot.name

    @property
    def grad(self) -> Array | None:
        """The gradient that has accumulated, or None before any backward.

        Raises:
            AutogradError: the tensor is frozen, so asking is a mistake and not a zero.
        """
        if not self.requires_grad:
            raise AutogradError(
                f"tensor {self.name!r} is frozen and has no gradient", hint="create it with requires_grad=True"
            )
        return self.slot.grad

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.slot.grad = None
        self.slot.shared = False

    def mark_changed(self) -> None:
        """Say that `data` was changed in place, so that a tape that saved it refuses to use it."""
        self.slot.version += 1

    def assign(self, values: Any) -> None:
        """Overwrite the data with values of the same shape.

        Raises:
            AutogradError: the shapes differ.
        """
        values = self.backend.asarray(values)
        if tuple(values.shape) != self.shape:
            raise AutogradError(f"cannot assign shape {tuple(values.shape)} to tensor {self.name!r} of {self.shape}")
        self.data[...] = values
        self.mark_changed()

    def numpy(self) -> np.ndarray:
        """The data on the host."""
        return self.backend.to_host(self.data)

    def __repr__(self) -> str:
        trainable = ", requires_grad" if self.requires_grad else ""
        return f"Tensor({self.name or 'unnamed'}, shape={self.shape}, {self.data.dtype}{trainable})"

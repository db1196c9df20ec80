"""A tensor: an array of a backend, and the slot where its gradient will arrive.

The slot is an object of its own, so that the tape can route gradients without keeping activations alive: a node refers
to slots, and only to those arrays that its op asked to save.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.base import Array, Backend
from entrenar_core.errors import AutogradError


class Version:
    """Counts the in-place changes of one piece of memory; a tensor and its views have the same one."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class GradSlot:
    """Where one tensor's gradient accumulates.

    `shared` says that `grad` may be somebody else's buffer too, so it must not be changed in place. `version` counts
    in-place changes of the tensor's data. `cast` is what `Tensor.for_products` keeps. `origin` is the identity of the
    tape that recorded the tensor, if one did.
    A leaf (a parameter) keeps its gradient; others lose it during backward.
    """

    __slots__ = ("cast", "dtype", "grad", "is_leaf", "name", "origin", "shape", "shared", "version")

    def __init__(self, shape: tuple[int, ...], dtype: Any, *, is_leaf: bool, name: str) -> None:
        self.shape = shape
        self.dtype = dtype
        self.is_leaf = is_leaf
        self.name = name
        self.grad: Array | None = None
        self.shared = False
        self.version = Version()
        self.cast: tuple[Array, int, Array] | None = None
        self.origin: object | None = None

    def accumulate(self, grad: Array, backend: Backend, *, shared: bool) -> None:
        """Add a gradient of this slot's shape; takes the buffer over unless it is `shared`.

        The slot's own buffer, when nobody shares it, comes back from an op that has added to it already.

        Raises:
            AutogradError: the gradient has another shape.
        """
        if grad.shape != self.shape:
            raise AutogradError(f"gradient of shape {grad.shape} for tensor {self.name!r} of shape {self.shape}")
        if grad is self.grad and not self.shared:
            return
        grad = backend.xp.asarray(grad)
        if grad.dtype != self.dtype:
            grad, shared = backend.cast(grad, self.dtype), False
        if self.grad is None:
            copies = shared and self.is_leaf
            self.grad = _copy(backend, grad) if copies else grad
            self.shared = shared and not copies
        elif self.shared:
            self.grad = _add(backend, self.grad, grad, None)
            self.shared = False
        else:
            _add(backend, self.grad, grad, self.grad)


def fits_kernels(backend: Backend, *arrays: Array) -> bool:
    """Whether the backend's elementwise kernels take these arrays: one shape, and one dtype that it computes in.

    Losses are float64 scalars on every backend, so sums and multiples of losses go another way.
    """
    first = arrays[0]
    is_known = first.dtype in (backend.dtype, backend.compute_dtype)
    return is_known and all(array.shape == first.shape and array.dtype == first.dtype for array in arrays)


def _copy(backend: Backend, array: Array) -> Array:
    return backend.xp.asarray(backend.scale(array, 1.0)) if fits_kernels(backend, array) else array.copy()


def _add(backend: Backend, a: Array, b: Array, out: Array | None) -> Array:
    add = backend.add if fits_kernels(backend, a, b) else backend.xp.add
    return backend.xp.asarray(add(a, b, out=out))


class Tensor:
    """An array with an optional gradient.

    Args:
        data: array of `backend`, any shape.
        backend: whose kernels the ops on this tensor call.
        requires_grad: whether gradients flow to it.
        name: the GGUF tensor name for parameters; shown in errors.

    Raises:
        AutogradError: a gradient is wanted for integers.
    """

    __slots__ = ("backend", "data", "requires_grad", "slot")

    def __init__(
        self, data: Array, backend: Backend, *, requires_grad: bool = False, name: str = "", is_leaf: bool = True
    ) -> None:
        if requires_grad and data.dtype.kind in "biu":
            raise AutogradError(f"tensor {name!r} of {data.dtype} cannot have a gradient: only floating numbers can")
        self.data = data
        self.backend = backend
        self.requires_grad = requires_grad
        self.slot = GradSlot(tuple(data.shape), data.dtype, is_leaf=is_leaf, name=name)

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
            AutogradError: the tensor is frozen, so asking is a mistake and not a zero; or it is an intermediate
                result, whose gradient backward does not keep.
        """
        if not self.requires_grad:
            raise AutogradError(
                f"tensor {self.name!r} is frozen and has no gradient", hint="create it with requires_grad=True"
            )
        if not self.slot.is_leaf:
            raise AutogradError(f"tensor {self.name!r} is an intermediate result; only leaves keep their gradients")
        return self.slot.grad

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.slot.grad = None

    def for_products(self) -> Array:
        """The data in the type that matrices are multiplied in: cast once for each change of the data, and kept."""
        if self.data.dtype == self.backend.compute_dtype:
            return self.data
        kept, version = self.slot.cast, self.slot.version.count
        if kept is None or kept[0] is not self.data or kept[1] != version:
            kept = (self.data, version, self.backend.cast(self.data, self.backend.compute_dtype))
            self.slot.cast = kept
        return kept[2]

    def mark_changed(self) -> None:
        """Say that `data` was changed in place, so that a tape that saved it, or a view of it, refuses to use it."""
        self.slot.version.count += 1

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

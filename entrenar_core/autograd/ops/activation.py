"""Activations: ReLU, GELU (exact and tanh form), SiLU (Swish), SwiGLU, softmax."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Activation, Array
from entrenar_core.errors import AutogradError


class Activate(Op):
    name = "activation"

    @staticmethod
    def forward(context: Context, x: Array, kind: Activation) -> Array:
        context.save(x)
        context.params["kind"] = kind
        return context.backend.activation(kind, x)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (x,) = context.saved
        return (context.backend.activation_backward(context.params["kind"], grad, x),)


class SwiGLU(Op):
    name = "swiglu"

    @staticmethod
    def forward(context: Context, gate: Array, up: Array) -> Array:
        context.save(gate, up)
        return context.backend.swiglu(gate, up)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        gate, up = context.saved
        return context.backend.swiglu_backward(grad, gate, up)


class Softmax(Op):
    """y = softmax(x) over the last axis; dx = y·(dy - <dy, y>)."""

    name = "softmax"

    @staticmethod
    def forward(context: Context, x: Array) -> Array:
        y = context.backend.softmax(x.reshape(-1, x.shape[-1])).reshape(x.shape)
        context.save(y)
        return y

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        (y,) = context.saved
        n = y.shape[-1]
        return (context.backend.softmax_backward(grad.reshape(-1, n), y.reshape(-1, n)).reshape(y.shape),)


def relu(x: Tensor) -> Tensor:
    """max(x, 0); the gradient at 0 is 0."""
    return apply(Activate, x, kind="relu")


def gelu(x: Tensor, *, approximate: bool = False) -> Tensor:
    """x·Φ(x) (Hendrycks & Gimpel 2016), or its tanh form when `approximate`."""
    return apply(Activate, x, kind="gelu_tanh" if approximate else "gelu")


def silu(x: Tensor) -> Tensor:
    """x·σ(x), also called Swish (Ramachandran et al. 2017)."""
    return apply(Activate, x, kind="silu")


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate)·up as one node (Shazeer 2020).

    Raises:
        AutogradError: the shapes differ.
    """
    if gate.shape != up.shape:
        raise AutogradError(f"swiglu: gate {gate.shape} and up {up.shape} must have one shape")
    return apply(SwiGLU, gate, up)


def softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis."""
    return apply(Softmax, x)

"""Rotary position embedding as one node; its gradient is the rotation the other way."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, RopePairing
from entrenar_core.errors import AutogradError


class Rope(Op):
    name = "rope"

    @staticmethod
    def forward(context: Context, x: Array, cos: Array, sin: Array, pairing: RopePairing) -> Array:
        context.params.update(cos=cos, sin=sin, pairing=pairing)
        return context.backend.rope(x, cos, sin, pairing)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        params = context.params
        return (context.backend.rope(grad, params["cos"], params["sin"], params["pairing"], inverse=True),)


def rope(x: Tensor, cos: Array, sin: Array, pairing: RopePairing) -> Tensor:
    """Rotate the pairs of each head of x [B, T, H, E] by angles whose cos and sin are [B, T, P], P ≤ E/2.

    Raises:
        AutogradError: the shapes do not fit.
    """
    fits = len(x.shape) == 4 and cos.shape[:-1] == x.shape[:2] and cos.shape == sin.shape
    if not fits or 2 * cos.shape[-1] > x.shape[-1]:
        raise AutogradError(f"rope: x {x.shape} with cos {tuple(cos.shape)} and sin {tuple(sin.shape)} does not fit")
    return apply(Rope, x, cos=cos, sin=sin, pairing=pairing)

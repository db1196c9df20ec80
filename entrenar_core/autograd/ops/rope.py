"""Rotary position embedding as one node; its gradient is the rotation the other way."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array, RopePairing


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
    """Rotate the pairs of each head of x [B, T, H, E] by angles whose cos and sin are [B, T, P], P ≤ E/2."""
    return apply(Rope, x, cos=cos, sin=sin, pairing=pairing)

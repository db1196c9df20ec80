"""Dropout with a keyed mask: the same key draws the same mask, so nothing is saved and recomputation agrees."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.backend.parameters import DropoutKey


class Dropout(Op):
    name = "dropout"

    @staticmethod
    def forward(context: Context, x: Array, p: float, key: DropoutKey) -> Array:
        context.params.update(p=p, key=key)
        return context.backend.dropout(x, p, key)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        return (context.backend.dropout(grad, context.params["p"], context.params["key"]),)


def dropout(x: Tensor, p: float, key: DropoutKey | None) -> Tensor:
    """x with a fraction p set to zero and the rest divided by 1-p (Srivastava et al. 2014); without a key, x itself."""
    if p == 0.0 or key is None:
        return x
    return apply(Dropout, x, p=p, key=key)

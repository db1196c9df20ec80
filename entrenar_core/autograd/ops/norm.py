"""Normalisation over the last axis: LayerNorm and RMSNorm, each a single node."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.ops.matmul import rows
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.errors import AutogradError


class LayerNorm(Op):
    name = "layer_norm"

    @staticmethod
    def forward(context: Context, x: Array, gamma: Array, beta: Array, eps: float) -> Array:
        y, mean, inv_std = context.backend.layer_norm(rows(x), gamma, beta, eps)
        context.save(x, gamma, mean, inv_std)
        return y.reshape(x.shape)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        x, gamma, mean, inv_std = context.saved
        dx, dgamma, dbeta = context.backend.layer_norm_backward(rows(grad), rows(x), gamma, mean, inv_std)
        return dx.reshape(x.shape), dgamma, dbeta


class RMSNorm(Op):
    name = "rms_norm"

    @staticmethod
    def forward(context: Context, x: Array, weight: Array, eps: float) -> Array:
        y, inv_rms = context.backend.rms_norm(rows(x), weight, eps)
        context.save(x, weight, inv_rms)
        return y.reshape(x.shape)

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        x, weight, inv_rms = context.saved
        need_weight = context.needs[1]
        dx, dweight = context.backend.rms_norm_backward(rows(grad), rows(x), weight, inv_rms, need_weight)
        return dx.reshape(x.shape), dweight


def layer_norm(x: Tensor, gamma: Tensor, beta: Tensor, eps: float = 1e-5) -> Tensor:
    """gamma·(x - mean)/√(var + eps) + beta over the last axis of x [..., D] (Ba et al. 2016).

    Raises:
        AutogradError: gamma or beta is not [D].
    """
    _check_vectors("layer_norm", x, gamma, beta)
    return apply(LayerNorm, x, gamma, beta, eps=eps)


def rms_norm(x: Tensor, weight: Tensor, eps: float = 1e-5) -> Tensor:
    """weight·x/√(mean(x²) + eps) over the last axis of x [..., D] (Zhang & Sennrich 2019).

    Raises:
        AutogradError: the weight is not [D].
    """
    _check_vectors("rms_norm", x, weight)
    return apply(RMSNorm, x, weight, eps=eps)


def _check_vectors(op: str, x: Tensor, *vectors: Tensor) -> None:
    for vector in vectors:
        if vector.shape != x.shape[-1:]:
            raise AutogradError(f"{op}: input of shape {x.shape} for {vector.name!r} of shape {vector.shape}")

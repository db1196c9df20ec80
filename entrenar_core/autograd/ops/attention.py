"""Causal grouped-query attention as one node; backward computes the scores again instead of keeping them."""

from __future__ import annotations

from collections.abc import Sequence

from entrenar_core.autograd.op import Context, Op, apply
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Array
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.errors import AutogradError


class Attention(Op):
    """P = softmax(scale·Q Kᵀ), O = P V.

    dV = Pᵀ dO, dP = dO Vᵀ, dS = P·(dP - rowsum(dO·O)), dQ = scale·dS K, dK = scale·dSᵀ Q (Dao et al. 2022).
    """

    name = "attention"

    @staticmethod
    def forward(context: Context, q: Array, k: Array, v: Array, lower: Array, params: AttentionParams) -> Array:
        out, lse = context.backend.attention(q, k, v, lower, params)
        context.save(q, k, v, out, lse)
        context.params.update(lower=lower, params=params)
        return out

    @staticmethod
    def backward(context: Context, grad: Array) -> Sequence[Array | None]:
        q, k, v, out, lse = context.saved
        lower, params = context.params["lower"], context.params["params"]
        return context.backend.attention_backward(grad, q, k, v, out, lse, lower, params)


def attention(q: Tensor, k: Tensor, v: Tensor, lower: Array, params: AttentionParams) -> Tensor:
    """Attend from q [B, Tq, H, E] to k, v [B, Tk, K, E]; query i sees the keys lower[b, i] ... i + params.q_offset.

    `lower` (int32 [B, Tq]) isolates documents (where the query's document starts) and bounds a sliding window.

    Raises:
        AutogradError: shapes that do not fit, heads that are no multiple of the kv heads, or queries without a key.
    """
    fits = len(q.shape) == len(k.shape) == 4 and q.shape[0] == k.shape[0] and k.shape == v.shape
    fits = fits and q.shape[3] == k.shape[3] and q.shape[2] % k.shape[2] == 0 and tuple(lower.shape) == q.shape[:2]
    if not fits or not 0 <= params.q_offset <= k.shape[1] - q.shape[1]:
        raise AutogradError(
            f"attention: q {q.shape}, k {k.shape}, v {v.shape}, lower {tuple(lower.shape)} do not fit"
            f" with the first query at key {params.q_offset}"
        )
    return apply(Attention, q, k, v, lower=lower, params=params)

"""Attention and rotary embedding of the reference backend, written query by query, as the definition reads.

No mask and no repeated heads: each query slices the keys that it may see, so what it may not see cannot reach it, not
even a NaN. Slow on purpose; the fast backends are held against it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from entrenar_core.backend.base import RopePairing
from entrenar_core.backend.parameters import AttentionParams

NDArray = np.ndarray[Any, np.dtype[Any]]


def attend(q: NDArray, k: NDArray, v: NDArray, lower: NDArray, params: AttentionParams) -> tuple[NDArray, NDArray]:
    """out [B, Tq, H, E] and the log-sum-exp of the scores [B, H, Tq]; see `Backend.attention`."""
    grouped_q = _group_heads(q, k.shape[2])
    out = np.empty_like(grouped_q)
    lse = np.empty(grouped_q.shape[:-1], q.dtype)  # [B, Tq, K, G]
    for b, i, seen in _queries(lower, params.q_offset):
        scores, _ = _scores(grouped_q[b, i], k[b, seen], params)
        top = scores.max(axis=-1)
        weights = np.exp(scores - top[..., None])  # [K, G, S]
        total = weights.sum(axis=-1)
        lse[b, i] = top + np.log(total)
        out[b, i] = np.einsum("kgs,ske->kge", weights / total[..., None], v[b, seen])
    heads_last = lse.reshape(*q.shape[:3])
    return out.reshape(q.shape), np.ascontiguousarray(heads_last.transpose(0, 2, 1))


def attend_backward(
    dout: NDArray,
    q: NDArray,
    k: NDArray,
    v: NDArray,
    out: NDArray,
    lse: NDArray,
    lower: NDArray,
    params: AttentionParams,
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of q, k and v; see `Backend.attention_backward`.

    With p the weights and s the scores before the cap: dp = dout·v, d(capped) = p·(dp - <dout, out>) as
    <p, dp> = <dout, out>, ds = d(capped)·(1 - tanh²) (Dao et al. 2022, appendix B).
    """
    n_kv = k.shape[2]
    grouped_q, grouped_dout, grouped_out = (_group_heads(x, n_kv) for x in (q, dout, out))
    grouped_lse = _group_heads(lse.transpose(0, 2, 1)[..., None], n_kv)  # [B, Tq, K, G, 1]
    dq = np.zeros_like(grouped_q)
    dk, dv = np.zeros(k.shape, k.dtype), np.zeros(v.shape, v.dtype)
    for b, i, seen in _queries(lower, params.q_offset):
        scores, slope = _scores(grouped_q[b, i], k[b, seen], params)
        weights = np.exp(scores - grouped_lse[b, i])  # [K, G, S]
        dweights = np.einsum("kge,ske->kgs", grouped_dout[b, i], v[b, seen])
        mean = (grouped_dout[b, i] * grouped_out[b, i]).sum(axis=-1, keepdims=True)
        dscores = weights * (dweights - mean) * slope * float(params.scale)
        dv[b, seen] += np.einsum("kgs,kge->ske", weights, grouped_dout[b, i])
        dk[b, seen] += np.einsum("kgs,kge->ske", dscores, grouped_q[b, i])
        dq[b, i] = np.einsum("kgs,ske->kge", dscores, k[b, seen])
    return dq.reshape(q.shape), dk, dv


def turn(x: NDArray, cos: NDArray, sin: NDArray, pairing: RopePairing, inverse: bool) -> NDArray:
    """x [B, T, H, E] with the first 2·P components of each head turned; see `Backend.rope`."""
    n_pairs = cos.shape[-1]
    if pairing == "interleaved":
        first, second = slice(0, 2 * n_pairs, 2), slice(1, 2 * n_pairs, 2)
    else:
        first, second = slice(0, n_pairs), slice(n_pairs, 2 * n_pairs)
    cos = cos[:, :, None, :]
    sin = -sin[:, :, None, :] if inverse else sin[:, :, None, :]
    out = np.array(x, order="C")
    out[..., first] = x[..., first] * cos - x[..., second] * sin
    out[..., second] = x[..., first] * sin + x[..., second] * cos
    return out


def _group_heads(x: NDArray, n_kv: int) -> NDArray:
    """[B, T, H, E] -> [B, T, K, G, E]: query head h reads kv head h // G."""
    return x.reshape(*x.shape[:2], n_kv, x.shape[2] // n_kv, x.shape[3])


def _queries(lower: NDArray, q_offset: int) -> Iterator[tuple[int, int, slice]]:
    """Each query (b, i) with the slice of the keys that it sees."""
    for b, i in np.ndindex(*lower.shape):
        yield b, i, slice(int(lower[b, i]), i + q_offset + 1)


def _scores(q: NDArray, k: NDArray, params: AttentionParams) -> tuple[NDArray, NDArray | float]:
    """Scores [K, G, S] of one position's q [K, G, E] with its keys [S, K, E], and the slope of the soft cap there."""
    scores = np.einsum("kge,ske->kgs", q, k) * float(params.scale)
    if params.softcap == 0:
        return scores, 1.0
    saturation = np.tanh(scores / float(params.softcap))
    return saturation * float(params.softcap), 1 - saturation * saturation

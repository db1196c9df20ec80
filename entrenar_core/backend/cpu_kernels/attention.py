"""The parts of attention between its matrix products, over one block of scores.

Row r of a block belongs to query first_query + r // group and to query head first_head + r % group, so that all the
query heads of a kv head share one product. Column j is key first_key + j. Queries see the keys lower[query] ...
query + q_offset; the rest of a row becomes 0.
"""

from __future__ import annotations

import numpy as np

from entrenar_core.backend.cpu_kernels.elementary import ONE, ZERO, exp, maximum, tanh
from entrenar_core.jit import kernel


@kernel()
def masked_exponentials(scores, inverse_sums, lse, lower, first_query, first_key, first_head, group, q_offset, softcap):
    """scores [R, N] -> e^(score - max) in place; inverse_sums [R] of the rows; lse [H, T] their log-sum-exp."""
    softcap = np.float32(softcap)
    for r in range(scores.shape[0]):
        query = first_query + r // group
        begin = lower[query] - first_key
        end = query + q_offset + 1 - first_key
        scores[r, :begin] = ZERO
        scores[r, end:] = ZERO
        row = scores[r, begin:end]
        if softcap > ZERO:
            for i in range(row.size):
                row[i] = softcap * tanh(row[i] / softcap)
        largest = maximum(row)
        total = ZERO
        for i in range(row.size):
            e = exp(row[i] - largest)
            row[i] = e
            total += e
        inverse_sums[r, 0] = ONE / total
        lse[first_head + r % group, query] = largest + np.log(total)


@kernel()
def score_gradients(scores, dscores, delta, lse, lower, first_query, first_key, first_head, group, q_offset, softcap):
    """scores -> P in place; dscores holds dP = dO·Vᵀ and becomes dS = P·(dP - delta), times the soft cap's slope.

    delta [T, H] is the row sum of dO·O.
    """
    softcap = np.float32(softcap)
    for r in range(scores.shape[0]):
        query = first_query + r // group
        head = first_head + r % group
        begin = lower[query] - first_key
        end = query + q_offset + 1 - first_key
        scores[r, :begin] = ZERO
        scores[r, end:] = ZERO
        dscores[r, :begin] = ZERO
        dscores[r, end:] = ZERO
        row = scores[r, begin:end]
        drow = dscores[r, begin:end]
        shift = lse[head, query]
        mean = delta[query, head]
        if softcap > ZERO:
            for i in range(row.size):
                turned = tanh(row[i] / softcap)
                p = exp(softcap * turned - shift)
                drow[i] = p * (drow[i] - mean) * (ONE - turned * turned)
                row[i] = p
        else:
            for i in range(row.size):
                p = exp(row[i] - shift)
                drow[i] = p * (drow[i] - mean)
                row[i] = p


@kernel()
def row_dots(a, b, dots, start, stop):
    """dots[m] = Σ a[m]·b[m] for the rows of a, b [M, E]."""
    for m in range(start, stop):
        left = a[m]
        right = b[m]
        total = ZERO
        for i in range(left.size):
            total += left[i] * right[i]
        dots[m] = total


@kernel()
def score_keys(query, keys, begin, step, scale, row):
    """row[t] = scale·<query, key t> for query [E]; key t begins at begin + t·step of keys [N]."""
    for t in range(row.size):
        at = begin + t * step
        key = keys[at : at + query.size]
        dot = ZERO
        for e in range(query.size):
            dot += query[e] * key[e]
        row[t] = dot * scale


@kernel()
def add_values(row, total, values, begin, step, result):
    """result [E] = Σ row[t]/total · value t, which begins at begin + t·step of values [N]."""
    result[:] = ZERO
    for t in range(row.size):
        weight = row[t] / total
        at = begin + t * step
        value = values[at : at + result.size]
        for e in range(result.size):
            result[e] += weight * value[e]


@kernel()
def attend_one_query(q, keys, values, out, lse, scores, lower, n_kv_heads, row_step, scale, softcap, start, stop):
    """Generation: the one query of each of B sequences, for pairs start ... stop of sequence and kv head.

    Args:
        q, out: [B, H, E]. lse: [B, H]. lower: int32 [B], the first key that is seen.
        keys, values: flat; sequence b begins at b·row_step, and its key t has the heads [K, E].
        scores: scratch [B·K, T], T keys being seen at most.
    """
    scale = np.float32(scale)
    softcap = np.float32(softcap)
    group = q.shape[1] // n_kv_heads
    width = q.shape[2]
    step = n_kv_heads * width
    for pair in range(start, stop):
        b = pair // n_kv_heads
        kv_head = pair % n_kv_heads
        first = lower[b]
        begin = b * row_step + first * step + kv_head * width
        row = scores[pair, first:]
        for head in range(kv_head * group, (kv_head + 1) * group):
            score_keys(q[b, head], keys, begin, step, scale, row)
            if softcap > ZERO:
                for t in range(row.size):
                    row[t] = softcap * tanh(row[t] / softcap)
            largest = maximum(row)
            total = ZERO
            for t in range(row.size):
                weight = exp(row[t] - largest)
                row[t] = weight
                total += weight
            add_values(row, total, values, begin, step, out[b, head])
            lse[b, head] = largest + np.log(total)

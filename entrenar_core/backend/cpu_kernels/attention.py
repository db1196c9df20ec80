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
def score_keys(query, keys, kv_head, scale, row):
    """row[t] = scale·<query, keys[t, kv_head]> for query [E], keys [T, K, E]."""
    for t in range(row.size):
        key = keys[t, kv_head]
        dot = ZERO
        for e in range(query.size):
            dot += query[e] * key[e]
        row[t] = dot * scale


@kernel()
def attend_one_query(q, k, v, out, lse, scores, first, scale, softcap, start, stop):
    """Generation: the query heads q [H, E] of kv heads start ... stop over the keys first ... of k, v [T, K, E].

    Writes out [H, E] and lse [H]; scores [H, T] is scratch.
    """
    scale = np.float32(scale)
    softcap = np.float32(softcap)
    group = q.shape[0] // k.shape[1]
    for head in range(start * group, stop * group):
        kv_head = head // group
        query = q[head]
        row = scores[head, first:]
        score_keys(query, k[first:], kv_head, scale, row)
        if softcap > ZERO:
            for t in range(row.size):
                row[t] = softcap * tanh(row[t] / softcap)
        largest = maximum(row)
        total = ZERO
        for t in range(row.size):
            weight = exp(row[t] - largest)
            row[t] = weight
            total += weight
        result = out[head]
        result[:] = ZERO
        for t in range(row.size):
            weight = row[t] / total
            value = v[first + t, kv_head]
            for e in range(result.size):
                result[e] += weight * value[e]
        lse[head] = largest + np.log(total)

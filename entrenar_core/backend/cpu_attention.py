"""Causal grouped-query attention in blocks of queries: single-threaded matrix products around two kernels.

A block holds the query heads of one kv head, so that they share each product, and only the keys that any of its
queries sees: the upper triangle and other documents cost nothing. Forward keeps the log-sum-exp of each score row;
backward makes the probabilities again from it (Dao et al. 2022). Each result is written by one task, and sums over
tasks are added in a fixed order, so the outcome does not depend on which thread ran what.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from entrenar_core.backend.cpu_kernels import attention as kernels
from entrenar_core.backend.parameters import AttentionParams
from entrenar_core.backend.pool import Pool
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

_ROWS_PER_BLOCK = 192
"""Score rows of a block (queries × query heads per kv head)."""


_GRAIN = 1 << 16
"""Products of one query with its keys below which a thread of its own is not worth waking."""


@dataclass(frozen=True)
class _Plan:
    """How one call is cut: sizes, and the queries of a block."""

    n_heads: int
    n_kv_heads: int
    n_queries: int
    queries_per_block: int
    params: AttentionParams

    @property
    def group(self) -> int:
        """Query heads per kv head."""
        return self.n_heads // self.n_kv_heads

    @property
    def n_blocks(self) -> int:
        return -(-self.n_queries // self.queries_per_block)

    @property
    def rows(self) -> int:
        return self.queries_per_block * self.group

    def block(self, index: int, lower: NDArray) -> tuple[slice, slice]:
        """The queries of a block and the keys that they see; lower int32 [T] is that of the batch row."""
        start = index * self.queries_per_block
        stop = min(start + self.queries_per_block, self.n_queries)
        return slice(start, stop), slice(int(lower[start:stop].min()), stop + self.params.q_offset)


def attend(
    threads: Threads, pool: Pool, q: NDArray, k: NDArray, v: NDArray, lower: NDArray, params: AttentionParams
) -> tuple[NDArray, NDArray]:
    """out [B, Tq, H, E] and lse [B, H, Tq] for q [B, Tq, H, E], k and v [B, Tk, K, E], lower int32 [B, Tq]."""
    batch, n_queries, n_heads, width = q.shape
    out = pool.empty(q.shape)
    lse = pool.empty((batch, n_heads, n_queries))
    if batch and n_queries == 1 and _is_one_stretch(k) and _is_one_stretch(v) and k.strides == v.strides:
        _attend_one_query(threads, pool, q, k, v, lower, params, out, lse)
        return out, lse
    plan = _plan(q, k, params)
    n_tasks = batch * plan.n_kv_heads * plan.n_blocks
    scratch = _scratch(
        threads, pool, n_tasks, (plan.rows * k.shape[1], plan.rows * width, plan.rows * width, plan.rows)
    )
    threads.run_tasks(_forward_task, n_tasks, plan, q, k, v, lower, out, lse, scratch)
    return out, lse


def attend_backward(
    threads: Threads,
    pool: Pool,
    dout: NDArray,
    q: NDArray,
    k: NDArray,
    v: NDArray,
    out: NDArray,
    lse: NDArray,
    lower: NDArray,
    params: AttentionParams,
) -> tuple[NDArray, NDArray, NDArray]:
    """Gradients of q, k and v, with the shapes of these."""
    plan = _plan(q, k, params)
    batch, n_queries, n_heads, width = q.shape
    n_keys = k.shape[1]
    delta = pool.empty((batch, n_queries, n_heads))
    rows = delta.size
    flat = (dout.reshape(rows, width), out.reshape(rows, width), delta.reshape(rows))
    threads.run(kernels.row_dots, rows, *flat, grain=256)

    # With fewer kv heads than threads, the blocks of one kv head are dealt to several tasks with sums of their own.
    heads = batch * plan.n_kv_heads
    shares = min(plan.n_blocks, max(1, -(-2 * threads.count // heads))) if heads < 2 * threads.count else 1
    dq = pool.empty(q.shape)
    dk = pool.empty((shares, *k.shape))
    dv = pool.empty((shares, *k.shape))
    sizes = (plan.rows * n_keys, plan.rows * n_keys, plan.rows * width, plan.rows * width, n_keys * width)
    scratch = _scratch(threads, pool, heads * shares, (*sizes, n_keys * width, n_keys * width))
    arrays = (q, k, v, dout, lse, delta, lower, dq, dk, dv)
    threads.run_tasks(_backward_task, heads * shares, plan, shares, arrays, scratch)
    return dq, _sum_shares(dk), _sum_shares(dv)


def _attend_one_query(
    threads: Threads,
    pool: Pool,
    q: NDArray,
    k: NDArray,
    v: NDArray,
    lower: NDArray,
    params: AttentionParams,
    out: NDArray,
    lse: NDArray,
) -> None:
    """One query per sequence has too little work for matrix products: one kernel, cut by sequences and kv heads."""
    batch, _, n_heads, width = q.shape
    n_kv_heads, n_keys = k.shape[2], params.q_offset + 1
    scores = pool.empty((batch * n_kv_heads, n_keys))
    grain = -(-_GRAIN // (n_keys * width * (n_heads // n_kv_heads)))
    arrays = (q[:, 0], _flat(k[:, :n_keys]), _flat(v[:, :n_keys]), out[:, 0], lse[:, :, 0], scores, lower[:, 0])
    sizes = (n_kv_heads, k.strides[0] // k.itemsize, params.scale, params.softcap)
    threads.run(kernels.attend_one_query, batch * n_kv_heads, *arrays, *sizes, grain=grain)


def _is_one_stretch(rows: NDArray) -> bool:
    """Whether each of the rows [B, T, K, E] has no gaps, and the next one comes behind it."""
    return rows[0].flags.c_contiguous and (len(rows) == 1 or rows.strides[0] >= rows[0].nbytes)


def _flat(rows: NDArray) -> NDArray:
    """The memory from the first to the last number of rows [B, T, K, E], what lies between two rows included."""
    n_values = (len(rows) - 1) * rows.strides[0] // rows.itemsize + rows[0].size
    return as_strided(rows, (n_values,), (rows.itemsize,), writeable=False)


def _plan(q: NDArray, k: NDArray, params: AttentionParams) -> _Plan:
    _, n_queries, n_heads, _ = q.shape
    n_kv_heads = k.shape[2]
    queries = max(1, _ROWS_PER_BLOCK * n_kv_heads // n_heads)
    return _Plan(n_heads, n_kv_heads, n_queries, min(queries, max(n_queries, 1)), params)


def _scratch(threads: Threads, pool: Pool, n_tasks: int, sizes: tuple[int, ...]) -> list[list[NDArray]]:
    """Flat float32 arrays of these sizes for each thread that can get a task."""
    return [[pool.empty((size,)) for size in sizes] for _ in range(min(threads.count, max(n_tasks, 1)))]


def _sum_shares(partials: NDArray) -> NDArray:
    total: NDArray = partials[0]
    for partial in partials[1:]:
        total += partial
    return total


def _gather(source: NDArray, scratch: NDArray, factor: float) -> NDArray:
    """source [T, G, E] times factor as contiguous rows [T·G, E]."""
    rows = scratch[: source.size].reshape(source.shape)
    np.multiply(source, np.float32(factor), out=rows)
    return rows.reshape(-1, source.shape[2])


def _forward_task(
    plan: _Plan,
    q: NDArray,
    k: NDArray,
    v: NDArray,
    lower: NDArray,
    out: NDArray,
    lse: NDArray,
    scratch: list[list[NDArray]],
    task: int,
    thread: int,
) -> None:
    """One block of queries of one kv head; late blocks see the most keys, so they are taken first."""
    head_task = task % (q.shape[0] * plan.n_kv_heads)
    b, kv_head = divmod(head_task, plan.n_kv_heads)
    queries, keys = plan.block(plan.n_blocks - 1 - task // (q.shape[0] * plan.n_kv_heads), lower[b])
    heads = slice(kv_head * plan.group, (kv_head + 1) * plan.group)
    score_memory, q_memory, out_memory, sum_memory = scratch[thread]

    q_rows = _gather(q[b, queries, heads], q_memory, plan.params.scale)
    n_rows, n_keys = len(q_rows), keys.stop - keys.start
    scores = score_memory[: n_rows * n_keys].reshape(n_rows, n_keys)
    np.matmul(q_rows, k[b, keys, kv_head].T, out=scores)
    inverse_sums = sum_memory[:n_rows].reshape(n_rows, 1)
    window = (queries.start, keys.start, heads.start, plan.group, plan.params.q_offset, plan.params.softcap)
    kernels.masked_exponentials(scores, inverse_sums, lse[b], lower[b], *window)
    out_rows = out_memory[: q_rows.size].reshape(q_rows.shape)
    np.matmul(scores, v[b, keys, kv_head], out=out_rows)
    target = out[b, queries, heads]
    np.multiply(out_rows.reshape(target.shape), inverse_sums.reshape(*target.shape[:2], 1), out=target)


def _backward_task(
    plan: _Plan, shares: int, arrays: tuple[NDArray, ...], scratch: list[list[NDArray]], task: int, thread: int
) -> None:
    """Every `shares`-th block of queries of one kv head: dq of these, and their part of dk and dv."""
    q, k, v, dout, lse, delta, lower, dq, dk, dv = arrays
    head_task, share = divmod(task, shares)
    b, kv_head = divmod(head_task, plan.n_kv_heads)
    heads = slice(kv_head * plan.group, (kv_head + 1) * plan.group)
    score_memory, dscore_memory, q_memory, dout_memory, dk_memory, dv_memory, part_memory = scratch[thread]
    n_keys, width = k.shape[1], k.shape[3]
    dk_sum = dk_memory.reshape(n_keys, width)
    dv_sum = dv_memory.reshape(n_keys, width)
    part = part_memory.reshape(n_keys, width)
    dk_sum[...] = 0
    dv_sum[...] = 0
    for index in range(share, plan.n_blocks, shares):
        queries, keys = plan.block(index, lower[b])
        q_rows = _gather(q[b, queries, heads], q_memory, plan.params.scale)
        dout_rows = _gather(dout[b, queries, heads], dout_memory, 1.0)
        shape = (len(q_rows), keys.stop - keys.start)
        scores = score_memory[: shape[0] * shape[1]].reshape(shape)
        dscores = dscore_memory[: shape[0] * shape[1]].reshape(shape)
        np.matmul(q_rows, k[b, keys, kv_head].T, out=scores)
        np.matmul(dout_rows, v[b, keys, kv_head].T, out=dscores)
        window = (queries.start, keys.start, heads.start, plan.group, plan.params.q_offset, plan.params.softcap)
        kernels.score_gradients(scores, dscores, delta[b], lse[b], lower[b], *window)
        dv_sum[keys] += np.matmul(scores.T, dout_rows, out=part[keys])
        dk_sum[keys] += np.matmul(dscores.T, q_rows, out=part[keys])
        dq_rows = np.matmul(dscores, k[b, keys, kv_head], out=dout_rows)
        target = dq[b, queries, heads]
        np.multiply(dq_rows.reshape(target.shape), np.float32(plan.params.scale), out=target)
    dk[share, b, :, kv_head] = dk_sum
    dv[share, b, :, kv_head] = dv_sum

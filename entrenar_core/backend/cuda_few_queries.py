"""Attention of a few queries to a long cache, as when tokens are written: two launches, whatever the batch is."""

from __future__ import annotations

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import CudaLaunch
from entrenar_core.backend.cuda_sdpa import AttentionSizes
from entrenar_core.backend.parameters import AttentionParams

FEW_QUERIES = 16

_WIDEST_HEAD = 256
_LARGEST_GROUP = 16
"""A block has a warp for each head of one, and every warp its registers."""

_WARPS = 4096
"""That keep the largest GPU busy: so many share the keys of few sequences."""

_FEWEST_KEYS = 64
"""That a warp is worth starting for."""


def are_few(sizes: AttentionSizes) -> bool:
    """Whether this is the way for an attention of these sizes."""
    return sizes.n_queries <= FEW_QUERIES and sizes.width <= _WIDEST_HEAD and sizes.group <= _LARGEST_GROUP


class CudaFewQueries(CudaLaunch):
    """Attention of a few queries."""

    def attend_few(
        self, q: Array, k: Array, v: Array, lower: Array, sizes: AttentionSizes, params: AttentionParams
    ) -> tuple[Array, Array]:
        """`Backend.attention` for sizes that `are_few`."""
        n_rows = sizes.batch * sizes.n_queries
        n_seen = params.q_offset + sizes.n_queries
        n_parts = max(1, min(_WARPS // (n_rows * sizes.n_heads), n_seen // _FEWEST_KEYS))
        keys_of_a_part = -(-n_seen // n_parts)
        parts = self.empty((n_rows, n_parts, sizes.n_heads, sizes.width))
        sums = self.empty((n_rows, n_parts, sizes.n_heads, 2))
        q, (k, v) = self.contiguous(q), (self.with_whole_tokens(each) for each in (k, v))
        strides = [each.strides[axis] // each.dtype.itemsize for each in (k, v) for axis in (0, 1)]
        how = (sizes.group, sizes.width, sizes.n_queries, params.q_offset, keys_of_a_part, params.scale, params.softcap)
        grid, threads = (n_parts, sizes.n_kv, n_rows), 32 * sizes.group
        given = (q, k, v, lower, parts, sums)
        self.launch(_FILE, "attend_few", grid, *given, *strides, *how, element=q.dtype, threads=threads)
        out, lse = self.empty(q.shape, q.dtype), self.empty((sizes.batch, sizes.n_heads, sizes.n_queries))
        places = (sizes.width, sizes.n_queries, n_parts)
        found, heads = (parts, sums, out, lse), (sizes.n_heads, n_rows)
        self.launch(_FILE, "join_few", heads, *found, *places, element=q.dtype, threads=32)
        return out, lse


_FILE = "attention_few"

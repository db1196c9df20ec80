"""Attention from matrix products, a block of queries at a time: exact, and without a matrix of all scores.

The heads of a group that share keys become rows of one product, (query, head), over a batch of (sequence, kv head). Of
a block, scores of the keys up to its last query exist in float32, and their softmax in the type of activations. In
backward both are made again from the log-sum-exp (Dao et al. 2022), block after block, so the result has the same bits
each time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from entrenar_core.backend.base import Array
from entrenar_core.backend.cuda_launch import FLOAT32, CudaLaunch
from entrenar_core.backend.cuda_sdpa import AttentionSizes
from entrenar_core.backend.parameters import AttentionParams

SCORE_BYTES = 256 << 20
"""Scores of a block, float32: large enough for products at their full rate, small beside a model."""

_KEYS_TOGETHER = 8


@dataclass(frozen=True)
class _Block:
    """Queries first_query ... first_query + n_queries of a block, and the keys that one of them may see."""

    first_query: int
    n_queries: int
    keys: slice

    @property
    def n_keys(self) -> int:
        return int(self.keys.stop - self.keys.start)

    def rows(self, group: int) -> slice:
        return slice(self.first_query * group, (self.first_query + self.n_queries) * group)


class CudaBlockedAttention(CudaLaunch):
    """Attention in blocks of queries, for every call."""

    score_bytes = SCORE_BYTES

    def attend_in_blocks(
        self, q: Array, k: Array, v: Array, lower: Array, sizes: AttentionSizes, params: AttentionParams
    ) -> tuple[Array, Array]:
        """`Backend.attention`."""
        lse = self.empty((sizes.batch, sizes.n_heads, sizes.n_queries))
        grouped = self._split(q, sizes.n_kv, sizes.group * sizes.width).reshape(sizes.sequences, -1, sizes.width)
        keys, values = (self._split(each, sizes.n_kv, sizes.width) for each in (k, v))
        out = self.empty(grouped.shape, q.dtype)
        for block in self._blocks(sizes, params):
            rows = block.rows(sizes.group)
            scores = self._product(grouped[:, rows], _transposed(keys, block), FLOAT32, params.scale)
            weights = self.empty(scores.shape, q.dtype)
            self._over_scores("attention_softmax", block, sizes, params, scores, weights, lse, lower)
            self.runtime.gemm(weights, values[:, block.keys], out[:, rows], 1.0, 0.0)
        return self._join("join_heads", out, q.shape, sizes, sizes.group, q.dtype), lse

    def attend_in_blocks_backward(
        self,
        dout: Array,
        q: Array,
        k: Array,
        v: Array,
        out: Array,
        lse: Array,
        lower: Array,
        sizes: AttentionSizes,
        params: AttentionParams,
    ) -> tuple[Array, Array, Array]:
        """`Backend.attention_backward`."""
        grouped, dgrouped, delta = self._grouped(q, dout, out, sizes)
        dq = self.empty(grouped.shape, q.dtype)
        dk, dv = (self.runtime.zeros((sizes.sequences, sizes.n_keys, sizes.width), FLOAT32) for _ in range(2))
        keys, values = (self._split(each, sizes.n_kv, sizes.width) for each in (k, v))
        for block in self._blocks(sizes, params):
            rows, seen = block.rows(sizes.group), block.keys
            queries, dqueries = grouped[:, rows], dgrouped[:, rows]
            scores = self._product(queries, _transposed(keys, block), FLOAT32, params.scale)
            dweights = self._product(dqueries, _transposed(values, block), FLOAT32, 1.0)
            weights, dscores = self.empty(scores.shape, q.dtype), self.empty(scores.shape, q.dtype)
            arrays = (scores, dweights, lse, delta, weights, dscores, lower)
            self._over_scores("attention_backward", block, sizes, params, *arrays)
            self.runtime.gemm(dscores, keys[:, seen], dq[:, rows], params.scale, 0.0)
            self.runtime.gemm(dscores.transpose(0, 2, 1), queries, dk[:, seen], params.scale, 1.0)
            self.runtime.gemm(weights.transpose(0, 2, 1), dqueries, dv[:, seen], 1.0, 1.0)
        return (
            self._join("join_heads", dq, q.shape, sizes, sizes.group, q.dtype),
            self._join("join_sums", dk, k.shape, sizes, 1, q.dtype),
            self._join("join_sums", dv, v.shape, sizes, 1, q.dtype),
        )

    def _grouped(self, q: Array, dout: Array, out: Array, sizes: AttentionSizes) -> tuple[Array, Array, Array]:
        """q and dout [Z, queries·group, width], and Σ dout·out of each of their rows."""
        grouped, dgrouped, of_out = (
            self._split(each, sizes.n_kv, sizes.group * sizes.width).reshape(sizes.sequences, -1, sizes.width)
            for each in (q, dout, out)
        )
        n_rows = sizes.sequences * sizes.n_queries * sizes.group
        delta = self.empty((n_rows,))
        arrays = (dgrouped, of_out, delta, n_rows, sizes.width)
        self.launch("attention", "attention_delta", (-(-n_rows // 8),), *arrays, element=q.dtype)
        return grouped, dgrouped, delta

    def _blocks(self, sizes: AttentionSizes, params: AttentionParams) -> Iterator[_Block]:
        """Blocks of all queries, each as high as its scores allow."""
        most = max(1, self.score_bytes // (4 * sizes.batch * sizes.n_heads))  # of (query, key)
        first = 0
        while first < sizes.n_queries:
            block = _block(first, max(1, most // sizes.n_keys), sizes, params)
            while block.n_queries < sizes.n_queries - first:
                wider = _block(first, 2 * block.n_queries, sizes, params)
                if wider.n_queries * wider.n_keys > most:
                    break
                block = wider
            yield block
            first += block.n_queries

    def _split(self, x: Array, n_kv: int, width: int) -> Array:
        """x [B, T, n_kv·width] -> [B·n_kv, T, width]."""
        x = self.with_whole_tokens(x)
        (batch, time), item = x.shape[:2], x.dtype.itemsize
        y = self.empty((batch * n_kv, time, width), x.dtype)
        strides = (x.strides[0] // item, x.strides[1] // item)
        self._over_packs("split_heads", x, y, *strides, time, n_kv, width, element=x.dtype)
        return y

    def _join(self, kernel: str, x: Array, shape: Any, sizes: AttentionSizes, group: int, dtype: Any) -> Array:
        y = self.empty(shape, dtype)
        self._over_packs(kernel, x, y, shape[1], sizes.n_kv, group * sizes.width, element=dtype)
        return y

    def _over_packs(self, kernel: str, x: Array, y: Array, *sizes: int, element: Any) -> None:
        self.over_elements("attention", kernel, -(-y.nbytes // 16), x, y, y.size, *sizes, element=element)

    def _product(self, a: Array, b: Array, dtype: Any, alpha: float) -> Array:
        out = self.empty((a.shape[0], a.shape[1], b.shape[2]), dtype)
        self.runtime.gemm(a, b, out, alpha, 0.0)
        return out

    def _over_scores(
        self, kernel: str, block: _Block, sizes: AttentionSizes, params: AttentionParams, *arrays: Array
    ) -> None:
        grid = (block.n_queries * sizes.group, sizes.sequences)
        places = (block.first_query, sizes.group, sizes.n_kv, sizes.n_queries, block.n_keys)
        how = (params.q_offset - block.keys.start, block.keys.start, params.softcap)
        element = arrays[1].dtype if kernel == "attention_softmax" else arrays[4].dtype
        threads = min(256, max(32, -(-block.n_keys * element.itemsize // 1024) * 32))
        self.launch("attention", kernel, grid, *arrays, *places, *how, element=element, threads=threads)


def _block(first_query: int, n_queries: int, sizes: AttentionSizes, params: AttentionParams) -> _Block:
    """The block of up to n_queries from first_query on. Its keys begin and end at multiples of 8, which products like,
    where the host knows of some that nobody sees, and where that adds no key that a cache has no value for."""
    count = min(n_queries, sizes.n_queries - first_query)
    first_key, stop = 0, first_query + count + params.q_offset
    if params.host_lower is not None:
        first_key = params.host_lower.first_key(first_query, first_query + count)
    if sizes.n_queries == sizes.n_keys:
        stop = min(sizes.n_keys, -(-stop // _KEYS_TOGETHER) * _KEYS_TOGETHER)
    return _Block(first_query, count, slice(first_key // _KEYS_TOGETHER * _KEYS_TOGETHER, stop))


def _transposed(x: Array, block: _Block) -> Array:
    """[Z, width, keys] of the keys that a block sees."""
    return x[:, block.keys].transpose(0, 2, 1)

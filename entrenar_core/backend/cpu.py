"""The CPU backend: NumPy arrays from a pool, numba kernels and single-threaded BLAS on threads of our own, in float32.

Each method checks what it is given, takes memory from the pool and shares the rows out over `Threads`; the arithmetic
lives in `cpu_kernels`, `cpu_gemm` and `cpu_attention`, the losses in `cpu_losses`. Kernels run without bounds checks,
hence the checks here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from entrenar_core.backend import cpu_attention, cpu_gemm, cpu_optimizer, cpu_packed, cpu_rounding
from entrenar_core.backend.base import Activation, RopePairing, WeightHandle
from entrenar_core.backend.clipping import Clipping, host_clipping, host_factor
from entrenar_core.backend.cpu_arguments import (
    FLOAT32,
    attention_inputs,
    contiguous,
    indices,
    like,
    rows,
    vector,
    writable,
)
from entrenar_core.backend.cpu_gemm import DenseWeight
from entrenar_core.backend.cpu_kernels import activation, dropout, embedding, norm, optimizer, rope, softmax
from entrenar_core.backend.cpu_losses import CpuLosses
from entrenar_core.backend.cpu_work import GRAIN, grain
from entrenar_core.backend.on_host import OnHost
from entrenar_core.backend.parameters import AdamParams, AttentionParams, DropoutKey, SGDParams
from entrenar_core.backend.pool import Pool
from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.threads import Threads

NDArray = np.ndarray[Any, np.dtype[Any]]

_NORM_BLOCKS = 64
_NORM_ROWS = 32

_FORWARD: dict[str, Callable[..., None]] = {
    "relu": activation.relu,
    "gelu": activation.gelu,
    "gelu_tanh": activation.gelu_tanh,
    "silu": activation.silu,
}
_BACKWARD: dict[str, Callable[..., None]] = {
    "relu": activation.relu_backward,
    "gelu": activation.gelu_backward,
    "gelu_tanh": activation.gelu_tanh_backward,
    "silu": activation.silu_backward,
}


class CpuBackend(CpuLosses, OnHost):
    """`Backend` on the CPU.

    Args:
        threads: how many threads compute; None takes every core that the process may run on.
        debug_pool: fill memory that returns to the pool with NaN.

    While a backend is open, BLAS is limited to one thread in the whole process.
    """

    name = "cpu"
    xp: ModuleType = np
    dtype = compute_dtype = FLOAT32

    def __init__(self, threads: int | None = None, debug_pool: bool = False) -> None:
        super().__init__(Threads(threads), Pool(debug=debug_pool))
        self.n_threads = self.threads.count
        self._blas_limit = threadpool_limits(limits=1, user_api="blas")

    # memory

    def empty(self, shape: Sequence[int], dtype: Any = None) -> NDArray:
        return self.pool.empty(shape, FLOAT32 if dtype is None else dtype)

    def zeros(self, shape: Sequence[int], dtype: Any = None) -> NDArray:
        array = self.empty(shape, dtype)
        self.threads.run(_fill_zero, array.size, array.reshape(-1), grain=4 * GRAIN)
        return array

    def asarray(self, values: Any, dtype: Any = None) -> NDArray:
        """`values` themselves if they already are such an array."""
        array = np.asarray(values)
        if dtype is None and array.dtype.kind == "f":
            dtype = FLOAT32
        return np.asarray(array, dtype, order="C")

    def to_host(self, array: NDArray) -> NDArray:
        """The array itself: it is on the host already."""
        return array

    def cast(self, array: NDArray, dtype: Any) -> NDArray:
        return array.astype(dtype, copy=False)

    # elementwise

    def add(self, a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
        return self._elementwise(np.add, a, b, out)

    def multiply(self, a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
        return self._elementwise(np.multiply, a, b, out)

    def scale(self, a: NDArray, factor: float, out: NDArray | None = None) -> NDArray:
        return self._elementwise(np.multiply, a, np.float32(factor), out)

    def add_bias(self, y: NDArray, bias: NDArray) -> None:
        y += vector("add_bias", bias, y.shape[-1])

    def sum_rows(self, x: NDArray) -> NDArray:
        return x.sum(axis=0)

    # matrix products

    def gemm(
        self,
        a: NDArray,
        b: NDArray,
        out: NDArray | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        dtype: Any = None,
    ) -> NDArray:
        shape = (a.shape[0], b.shape[-1])
        if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0] or (out is not None and out.shape != shape):
            raise ValueError(f"gemm: {a.shape} @ {b.shape} -> {shape if out is None else out.shape} does not fit")
        a, b = cpu_gemm.blas_ready(a), cpu_gemm.blas_ready(b)
        if out is None:
            out, beta = self.empty(shape, dtype), 0.0
        if beta == 0:
            cpu_gemm.multiply(self.threads, a, b, out, alpha)
        else:
            cpu_gemm.multiply_add(self.threads, self.pool, a, b, out, alpha, beta)
        return out

    def prepare_weight(self, weight: NDArray) -> WeightHandle:
        if weight.ndim != 2:
            raise ValueError(f"prepare_weight: {weight.shape} is not [out, in]")
        return DenseWeight(cpu_gemm.blas_ready(np.asarray(weight, FLOAT32)))

    def prepare_packed(self, weight: PackedMatrix) -> WeightHandle:
        return weight

    def linear(self, x: NDArray, weight: WeightHandle, dtype: Any = None) -> NDArray:
        del dtype  # there is one
        if isinstance(weight, PackedMatrix):
            return cpu_packed.multiply_transposed(self.threads, self.pool, x, weight)
        return self.gemm(x, cpu_gemm.dense_values(weight).T)

    def linear_input_grad(self, dy: NDArray, weight: WeightHandle) -> NDArray:
        if isinstance(weight, PackedMatrix):
            return cpu_packed.multiply(self.threads, self.pool, dy, weight)
        return self.gemm(dy, cpu_gemm.dense_values(weight))

    def fake_quantize(
        self,
        values: NDArray,
        codec: Codec,
        importance: NDArray | None = None,
        out: NDArray | None = None,
        inside: NDArray | None = None,
    ) -> NDArray:
        return cpu_rounding.fake_quantize(self.threads, self.pool, values, codec, importance, out, inside)

    def keep_where(self, array: NDArray, kept: NDArray, out: NDArray | None = None) -> NDArray:
        return cpu_rounding.keep_where(self.threads, self.pool, array, kept, out)

    # normalisation

    def rms_norm(self, x: NDArray, weight: NDArray, eps: float) -> tuple[NDArray, NDArray]:
        x, weight = rows("rms_norm", x, weight)
        y, inv_rms = self.pool.empty(x.shape), self.pool.empty(x.shape[:1])
        self._over_rows(norm.rms_norm, x, weight, y, inv_rms, float(eps))
        return y, inv_rms

    def rms_norm_backward(
        self, dy: NDArray, x: NDArray, weight: NDArray, inv_rms: NDArray, need_weight: bool
    ) -> tuple[NDArray, NDArray | None]:
        x, weight = rows("rms_norm_backward", x, weight)
        dy, inv_rms = like("rms_norm_backward", dy, x), vector("rms_norm_backward", inv_rms, len(x))
        dx = self.pool.empty(x.shape)
        rows_per_block, n_blocks = _norm_blocks(len(x))
        partials = self.pool.empty((n_blocks, x.shape[1]))
        arrays = (dy, x, weight, inv_rms, dx, partials, rows_per_block, need_weight)
        self.threads.run(norm.rms_norm_backward, n_blocks, *arrays, grain=grain(rows_per_block * x.shape[1]))
        return dx, partials.sum(axis=0) if need_weight else None

    def layer_norm(self, x: NDArray, gamma: NDArray, beta: NDArray, eps: float) -> tuple[NDArray, NDArray, NDArray]:
        x, gamma = rows("layer_norm", x, gamma)
        beta = vector("layer_norm", beta, x.shape[1])
        y, mean, inv_std = self.pool.empty(x.shape), self.pool.empty(x.shape[:1]), self.pool.empty(x.shape[:1])
        self._over_rows(norm.layer_norm, x, gamma, beta, y, mean, inv_std, float(eps))
        return y, mean, inv_std

    def layer_norm_backward(
        self, dy: NDArray, x: NDArray, gamma: NDArray, mean: NDArray, inv_std: NDArray
    ) -> tuple[NDArray, NDArray, NDArray]:
        x, gamma = rows("layer_norm_backward", x, gamma)
        dy = like("layer_norm_backward", dy, x)
        mean, inv_std = (vector("layer_norm_backward", each, len(x)) for each in (mean, inv_std))
        dx = self.pool.empty(x.shape)
        rows_per_block, n_blocks = _norm_blocks(len(x))
        partials = self.pool.empty((2 * n_blocks, x.shape[1]))
        arrays = (dy, x, gamma, mean, inv_std, dx, partials, rows_per_block)
        self.threads.run(norm.layer_norm_backward, n_blocks, *arrays, grain=grain(rows_per_block * x.shape[1]))
        return dx, partials[0::2].sum(axis=0), partials[1::2].sum(axis=0)

    # activations

    def activation(self, kind: Activation, x: NDArray) -> NDArray:
        return self._over_elements(_FORWARD[kind], kind, x)

    def activation_backward(self, kind: Activation, dy: NDArray, x: NDArray) -> NDArray:
        return self._over_elements(_BACKWARD[kind], kind, dy, x)

    def swiglu(self, gate: NDArray, up: NDArray) -> NDArray:
        return self._over_elements(activation.swiglu, "swiglu", gate, up)

    def swiglu_backward(self, dy: NDArray, gate: NDArray, up: NDArray) -> tuple[NDArray, NDArray]:
        dy, up = like("swiglu_backward", dy, gate), like("swiglu_backward", up, gate)
        gate = contiguous(gate)
        dgate, dup = self.pool.empty(gate.shape), self.pool.empty(gate.shape)
        arrays = (each.reshape(-1) for each in (dy, gate, up, dgate, dup))
        self.threads.run(activation.swiglu_backward, gate.size, *arrays, grain=GRAIN)
        return dgate, dup

    def softmax(self, x: NDArray) -> NDArray:
        x = contiguous(x)
        y = self.pool.empty(x.shape)
        self._over_rows(softmax.softmax, x, y)
        return y

    def softmax_backward(self, dy: NDArray, y: NDArray) -> NDArray:
        dy, y = like("softmax_backward", dy, y), contiguous(y)
        dx = self.pool.empty(y.shape)
        self._over_rows(softmax.softmax_backward, dy, y, dx)
        return dx

    # attention

    def rope(self, x: NDArray, cos: NDArray, sin: NDArray, pairing: RopePairing, inverse: bool = False) -> NDArray:
        batch, time, _, width = x.shape
        n_pairs = cos.shape[-1]
        if cos.shape != (batch, time, n_pairs) or sin.shape != cos.shape or 2 * n_pairs > width:
            raise ValueError(f"rope: x {x.shape} with cos {cos.shape} and sin {sin.shape} does not fit")
        x, cos, sin = contiguous(x), contiguous(cos), contiguous(sin)
        y = self.pool.empty(x.shape)
        n_rows = batch * time
        flat = (x.reshape(n_rows, *x.shape[2:]), cos.reshape(n_rows, n_pairs), sin.reshape(n_rows, n_pairs))
        turn = rope.rope_interleaved if pairing == "interleaved" else rope.rope_halves
        out = y.reshape(n_rows, *y.shape[2:])
        self.threads.run(turn, n_rows, *flat, out, -1.0 if inverse else 1.0, grain=grain(x.shape[2] * width))
        return y

    def attention(
        self, q: NDArray, k: NDArray, v: NDArray, lower: NDArray, params: AttentionParams
    ) -> tuple[NDArray, NDArray]:
        q, k, v, lower = attention_inputs(q, k, v, lower, params)
        return cpu_attention.attend(self.threads, self.pool, q, k, v, lower, params)

    def attention_backward(
        self,
        dout: NDArray,
        q: NDArray,
        k: NDArray,
        v: NDArray,
        out: NDArray,
        lse: NDArray,
        lower: NDArray,
        params: AttentionParams,
    ) -> tuple[NDArray, NDArray, NDArray]:
        q, k, v, lower = attention_inputs(q, k, v, lower, params)
        dout, out = like("attention_backward", dout, q), like("attention_backward", out, q)
        batch, time, n_heads, _ = q.shape
        if lse.shape != (batch, n_heads, time):
            raise ValueError(f"attention_backward: lse {lse.shape} does not fit q {q.shape}")
        lse = contiguous(lse)
        return cpu_attention.attend_backward(self.threads, self.pool, dout, q, k, v, out, lse, lower, params)

    # embedding, dropout

    def embedding(self, table: NDArray, ids: NDArray) -> NDArray:
        ids = indices("embedding", ids, len(table))
        y = self.pool.empty((len(ids), table.shape[1]))
        rows_each = grain(table.shape[1])
        self.threads.run(embedding.embedding, len(ids), contiguous(table), ids, y, grain=rows_each)
        return y

    def embedding_packed(self, table: WeightHandle, ids: NDArray) -> NDArray:
        if not isinstance(table, PackedMatrix):
            raise TypeError(f"a table in blocks is needed, not a {type(table).__name__}")
        return cpu_packed.rows_of(self.threads, self.pool, table, indices("embedding_packed", ids, table.shape[0]))

    def embedding_backward(self, dy: NDArray, ids: NDArray, out: NDArray) -> None:
        ids = indices("embedding_backward", ids, len(out))
        if dy.shape != (len(ids), out.shape[1]):
            raise ValueError(f"embedding_backward: dy {dy.shape} with {len(ids)} ids does not fit out {out.shape}")
        writable("embedding_backward", out)
        self.threads.run(
            embedding.embedding_backward, out.shape[1], contiguous(dy), ids, out, grain=max(16, grain(len(ids)))
        )

    def take_rows(self, x: NDArray, rows: NDArray) -> NDArray:
        return np.take(x, rows, axis=0)

    def put_rows(self, rows: NDArray, values: NDArray, out: NDArray) -> None:
        out[rows] = values

    def dropout(self, x: NDArray, p: float, key: DropoutKey) -> NDArray:
        if not 0 <= p < 1:
            raise ValueError(f"dropout: p = {p} is not in 0 ≤ p < 1")
        x = contiguous(x)
        y = self.pool.empty(x.shape)
        draw = (np.uint64(key.mixed()), np.uint64(int(p * 2**32)), 1 / (1 - p))
        self.threads.run(dropout.dropout, x.size, x.reshape(-1), y.reshape(-1), *draw, grain=GRAIN)
        return y

    # optimizers

    def plan_clipping(
        self, grads: Sequence[NDArray], max_norm: float | None = None, loss: NDArray | float = 0.0
    ) -> Clipping:
        return host_clipping((self.sum_of_squares(grad) for grad in grads), max_norm, loss)

    def adam_steps(
        self,
        arrays: Sequence[tuple[NDArray, NDArray, NDArray, NDArray]],
        params: AdamParams,
        clipping: Clipping | None = None,
    ) -> None:
        factor = host_factor(clipping)
        if factor is not None:
            cpu_optimizer.adam_steps(self.threads, arrays, params, factor)

    def sgd_steps(
        self,
        arrays: Sequence[tuple[NDArray, NDArray, NDArray | None]],
        params: SGDParams,
        clipping: Clipping | None = None,
    ) -> None:
        factor = host_factor(clipping)
        if factor is not None:
            cpu_optimizer.sgd_steps(self.threads, arrays, params, factor)

    def sum_of_squares(self, array: NDArray) -> float:
        return float(self._reduce_blocks(optimizer.sums_of_squares, array, np.float64).sum())

    def all_finite(self, array: NDArray) -> bool:
        largest = self._reduce_blocks(optimizer.largest_magnitude_bits, array, np.int32)
        return bool((largest < 0x7F800000).all())

    def close(self) -> None:
        self.threads.close()
        self.pool.trim()
        self._blas_limit.restore_original_limits()


def _norm_blocks(n_rows: int) -> tuple[int, int]:
    """Rows per partial sum of weight gradients, and how many partial sums; a function of the rows alone."""
    rows_per_block = max(_NORM_ROWS, -(-n_rows // _NORM_BLOCKS))
    return rows_per_block, -(-n_rows // rows_per_block)


def _fill_zero(array: NDArray, start: int, stop: int) -> None:
    array[start:stop] = 0

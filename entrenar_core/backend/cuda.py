"""The CUDA backend: activations in bfloat16 or float32, everything that accumulates in float32.

Each method checks shapes, takes memory from the runtime and starts kernels of `cuda_kernels`; nothing waits for the
device unless its result is a number on the host. Parameters, their gradients, statistics of rows, losses and logits are
float32 whatever activations are. Ids are not checked on the host, which would wait: a row of an id that is out of range
becomes NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.backend.base import Activation, Array, RopePairing
from entrenar_core.backend.cuda_attention import NO_LIBRARY, CudaAttention
from entrenar_core.backend.cuda_distillation import CudaDistillation
from entrenar_core.backend.cuda_launch import FLOAT32, THREADS, check_shape
from entrenar_core.backend.cuda_losses import CudaLosses
from entrenar_core.backend.cuda_optimizer import CudaOptimizer
from entrenar_core.backend.cuda_packed import CudaPacked
from entrenar_core.backend.cuda_rounding import CudaRounding
from entrenar_core.backend.cuda_runtime import Runtime
from entrenar_core.backend.cuda_sdpa import Sdpa
from entrenar_core.backend.parameters import DropoutKey


class CudaBackend(CudaPacked, CudaRounding, CudaAttention, CudaLosses, CudaDistillation, CudaOptimizer):
    """`Backend` on a CUDA device.

    Args:
        runtime: the device.
        compute_dtype: of activations, "float32" or "bfloat16".
        sdpa: a library of attentions, or why there is none.
        deterministic: whether the same input shall give the same bits each time, gradients of attention included.
    """

    name = "cuda"
    n_threads = 1
    runs_ahead = True
    takes_floats_packed = True

    def __init__(
        self,
        runtime: Runtime,
        compute_dtype: str = "bfloat16",
        sdpa: Sdpa | str = NO_LIBRARY,
        deterministic: bool = False,
    ) -> None:
        super().__init__(runtime, runtime.bfloat16 if compute_dtype == "bfloat16" else compute_dtype)
        self.attend_with(sdpa, deterministic)

    # memory

    def zeros(self, shape: Sequence[int], dtype: Any = None) -> Array:
        return self.runtime.zeros(tuple(shape), FLOAT32 if dtype is None else dtype)

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        if isinstance(values, self.xp.ndarray):
            if dtype is None and values.dtype.kind == "f":
                dtype = FLOAT32
            return self.xp.asarray(values, dtype, order="C")
        array = np.asarray(values)
        if dtype is None and array.dtype.kind == "f":
            dtype = FLOAT32
        return self.runtime.to_device(np.ascontiguousarray(array, dtype).reshape(array.shape))

    def to_host(self, array: Array) -> np.ndarray:
        if array.dtype == self.runtime.bfloat16:
            array = self.cast(array, FLOAT32)
        return self.runtime.to_host(array)

    # elementwise

    def add(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self._elementwise("add", a, b, out)

    def multiply(self, a: Array, b: Array, out: Array | None = None) -> Array:
        return self._elementwise("multiply", a, b, out)

    def add_bias(self, y: Array, bias: Array) -> None:
        check_shape("add_bias", "bias", bias, y.shape[-1:])
        self.over_rows("elementwise", "add_bias", y.size // len(bias), len(bias), y, bias, len(bias), element=y.dtype)

    def sum_rows(self, x: Array) -> Array:
        n_rows, width = x.shape
        return self.column_sums("elementwise", "sum_rows", n_rows, width, self.contiguous(x), element=x.dtype)

    def _elementwise(self, kernel: str, a: Array, b: Array, out: Array | None) -> Array:
        check_shape(kernel, "second", b, a.shape)
        a, b = self.contiguous(a), self.contiguous(b)
        out = self.empty(a.shape, a.dtype) if out is None else out
        check_shape(kernel, "out", out, a.shape)
        self.over_elements("elementwise", kernel, a.size, a, b, out, a.size, element=a.dtype)
        return out

    # normalisation

    def rms_norm(self, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
        x, (n_rows, width) = self.contiguous(x), x.shape
        check_shape("rms_norm", "weight", weight, (width,))
        y, inv_rms = self.empty(x.shape, x.dtype), self.empty((n_rows,))
        self.over_rows("norm", "rms_norm", n_rows, width, x, weight, y, inv_rms, width, eps, element=x.dtype)
        return y, inv_rms

    def rms_norm_backward(
        self, dy: Array, x: Array, weight: Array, inv_rms: Array, need_weight: bool
    ) -> tuple[Array, Array | None]:
        dy, x, (n_rows, width) = self.contiguous(dy), self.contiguous(x), x.shape
        check_shape("rms_norm_backward", "dy", dy, x.shape)
        dx = self.empty(x.shape, x.dtype)
        arrays = (dy, x, weight, inv_rms, dx)
        self.over_rows("norm", "rms_norm_backward", n_rows, width, *arrays, width, element=x.dtype)
        return dx, self._norm_weight_grad(dy, x, None, inv_rms) if need_weight else None

    def layer_norm(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
        x, (n_rows, width) = self.contiguous(x), x.shape
        check_shape("layer_norm", "gamma", gamma, (width,))
        check_shape("layer_norm", "beta", beta, (width,))
        y, mean, inv_std = self.empty(x.shape, x.dtype), self.empty((n_rows,)), self.empty((n_rows,))
        arrays = (x, gamma, beta, y, mean, inv_std)
        self.over_rows("norm", "layer_norm", n_rows, width, *arrays, width, eps, element=x.dtype)
        return y, mean, inv_std

    def layer_norm_backward(
        self, dy: Array, x: Array, gamma: Array, mean: Array, inv_std: Array
    ) -> tuple[Array, Array, Array]:
        dy, x, (n_rows, width) = self.contiguous(dy), self.contiguous(x), x.shape
        check_shape("layer_norm_backward", "dy", dy, x.shape)
        dx = self.empty(x.shape, x.dtype)
        arrays = (dy, x, gamma, mean, inv_std, dx)
        self.over_rows("norm", "layer_norm_backward", n_rows, width, *arrays, width, element=x.dtype)
        return dx, self._norm_weight_grad(dy, x, mean, inv_std), self.sum_rows(dy)

    def _norm_weight_grad(self, dy: Array, x: Array, mean: Array | None, inverse: Array) -> Array:
        return self.column_sums("norm", "norm_weight_grad", *x.shape, dy, x, mean, inverse, element=x.dtype)

    # activations

    def activation(self, kind: Activation, x: Array) -> Array:
        return self._activate(kind, x)[0]

    def activation_backward(self, kind: Activation, dy: Array, x: Array) -> Array:
        return self._activate(f"{kind}_backward", dy, x)[0]

    def swiglu(self, gate: Array, up: Array) -> Array:
        return self._activate("swiglu", gate, up)[0]

    def swiglu_backward(self, dy: Array, gate: Array, up: Array) -> tuple[Array, Array]:
        dgate, dup = self._activate("swiglu_backward", dy, gate, up, n_results=2)
        return dgate, dup

    def _activate(self, kernel: str, *arrays: Array, n_results: int = 1) -> list[Array]:
        first = arrays[0]
        for array in arrays[1:]:
            check_shape(kernel, "argument", array, first.shape)
        arrays = tuple(self.contiguous(array) for array in arrays)
        results = [self.empty(first.shape, first.dtype) for _ in range(n_results)]
        self.over_elements("activation", kernel, first.size, *arrays, *results, first.size, element=first.dtype)
        return results

    def softmax(self, x: Array) -> Array:
        x, (n_rows, width) = self.contiguous(x), x.shape
        y = self.empty(x.shape, x.dtype)
        self.over_rows("softmax", "softmax", n_rows, width, x, y, width, element=x.dtype)
        return y

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        dy, y, (n_rows, width) = self.contiguous(dy), self.contiguous(y), y.shape
        check_shape("softmax_backward", "dy", dy, y.shape)
        dx = self.empty(y.shape, y.dtype)
        self.over_rows("softmax", "softmax_backward", n_rows, width, dy, y, dx, width, element=y.dtype)
        return dx

    # rope, embedding, dropout

    def rope(self, x: Array, cos: Array, sin: Array, pairing: RopePairing, inverse: bool = False) -> Array:
        batch, time, n_heads, width = x.shape
        n_pairs = cos.shape[-1]
        if tuple(cos.shape) != (batch, time, n_pairs) or sin.shape != cos.shape or 2 * n_pairs > width:
            raise ValueError(f"rope: x {x.shape} with cos {cos.shape} and sin {sin.shape} does not fit")
        x, cos, sin = self.contiguous(x), self.contiguous(cos), self.contiguous(sin)
        y = self.empty(x.shape, x.dtype)
        how = (n_heads, width, n_pairs, pairing == "interleaved", -1.0 if inverse else 1.0)
        self.over_rows("rope", "rope", batch * time, n_heads * width, x, cos, sin, y, *how, element=x.dtype)
        return y

    def embedding(self, table: Array, ids: Array) -> Array:
        n, width = len(ids), table.shape[1]
        if table.dtype != FLOAT32:
            return self.take_rows(table, ids)
        y = self.empty((n, width), self.compute_dtype)
        arrays = (self.contiguous(table), ids, y)
        self.over_rows("embedding", "gather_rows", n, width, *arrays, *table.shape, element=y.dtype)
        return y

    def embedding_backward(self, dy: Array, ids: Array, out: Array) -> None:
        n_rows, width = dy.shape
        check_shape("embedding_backward", "ids", ids, (n_rows,))
        check_shape("embedding_backward", "out", out, (len(out), width))
        order = self.xp.argsort(ids, kind="stable")
        grid, arrays = (n_rows, -(-width // THREADS)), (self.contiguous(dy), ids, order, out)
        self.launch("embedding", "add_by_id", grid, *arrays, n_rows, *out.shape, element=dy.dtype)

    def put_rows(self, rows: Array, values: Array, out: Array) -> None:
        check_shape("put_rows", "values", values, (len(rows), out.shape[1]))
        arrays = (self.contiguous(values), rows, out)
        self.over_rows("embedding", "put_rows", *values.shape, *arrays, *out.shape, element=out.dtype)

    def dropout(self, x: Array, p: float, key: DropoutKey) -> Array:
        if not 0 <= p < 1:
            raise ValueError(f"dropout: p = {p} is not in 0 ≤ p < 1")
        x = self.contiguous(x)
        y = self.empty(x.shape, x.dtype)
        draw = (key.mixed(), int(p * 2**32), 1 / (1 - p))
        self.over_elements("dropout", "dropout", x.size, x, y, *draw, x.size, element=x.dtype)
        return y

    def synchronize(self) -> None:
        self.runtime.synchronize()

    def environment(self) -> dict[str, str]:
        return {**self.runtime.environment(), "compute_dtype": self.compute_dtype.name}

    def free_device_bytes(self) -> int:
        return self.runtime.free_bytes()

    def peak_device_bytes(self) -> int:
        return self.runtime.peak_bytes()

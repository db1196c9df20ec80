"""The plain NumPy backend: each kernel as its formula reads, in float32 or float64, on one thread.

It is the truth that the fast backends are tested against, and it runs anywhere. Arrays are ordinary NumPy arrays;
nothing is pooled and nothing is compiled. Shapes and meanings are those of `entrenar_core.backend.base.Backend`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from entrenar_core.backend import reference_attention
from entrenar_core.backend.base import Activation, RopePairing, WeightHandle
from entrenar_core.backend.clipping import Clipping, host_clipping, host_factor
from entrenar_core.backend.on_host import OnHost
from entrenar_core.backend.parameters import AdamParams, AttentionParams, DropoutKey, SGDParams
from entrenar_core.backend.reference_losses import ReferenceLosses
from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.round_trip import round_trip

NDArray = np.ndarray[Any, np.dtype[Any]]

_GOLDEN_GAMMA = 0x9E3779B97F4A7C15
_SQRT_2_OVER_PI = math.sqrt(2 / math.pi)
_GELU_CUBIC = 0.044715

_erfc = np.vectorize(math.erfc, otypes=[np.float64])


@dataclass(frozen=True)
class ReferenceWeight:
    """A frozen weight [out, in], kept as it came."""

    values: NDArray

    @property
    def shape(self) -> tuple[int, int]:
        n_out, n_in = self.values.shape
        return n_out, n_in

    @property
    def n_bytes(self) -> int:
        return self.values.nbytes


class ReferenceBackend(ReferenceLosses, OnHost):
    """`Backend` in plain NumPy. `dtype` is float32, or float64 for gradient checks and as the truth in tests."""

    name = "reference"
    n_threads = 1
    xp: ModuleType = np

    def __init__(self, dtype: Any = np.float32) -> None:
        self.dtype = self.compute_dtype = np.dtype(dtype)

    # memory

    def empty(self, shape: Sequence[int], dtype: Any = None) -> NDArray:
        return np.empty(shape, self.dtype if dtype is None else dtype)

    def zeros(self, shape: Sequence[int], dtype: Any = None) -> NDArray:
        return np.zeros(shape, self.dtype if dtype is None else dtype)

    def asarray(self, values: Any, dtype: Any = None) -> NDArray:
        array = np.asarray(values)
        if dtype is None and array.dtype.kind == "f":
            dtype = self.dtype
        return np.ascontiguousarray(array, dtype).reshape(array.shape)

    def to_host(self, array: NDArray) -> NDArray:
        return array

    def cast(self, array: NDArray, dtype: Any) -> NDArray:
        return array.astype(dtype, copy=False)

    # elementwise

    def add(self, a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
        return np.add(a, b, out=out)

    def multiply(self, a: NDArray, b: NDArray, out: NDArray | None = None) -> NDArray:
        return np.multiply(a, b, out=out)

    def scale(self, a: NDArray, factor: float, out: NDArray | None = None) -> NDArray:
        return np.multiply(a, float(factor), out=out)

    def add_bias(self, y: NDArray, bias: NDArray) -> None:
        y += bias

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
        if out is None:
            out = self.empty((a.shape[0], b.shape[1]), dtype)
            beta = 0.0
        product = float(alpha) * (a @ b)
        out[...] = product if beta == 0 else product + float(beta) * out
        return out

    def prepare_weight(self, weight: NDArray) -> WeightHandle:
        return ReferenceWeight(weight)

    def prepare_packed(self, weight: PackedMatrix) -> WeightHandle:
        return weight

    def linear(self, x: NDArray, weight: WeightHandle, dtype: Any = None) -> NDArray:
        return self.gemm(x, self._values(weight).T, dtype=dtype)

    def linear_input_grad(self, dy: NDArray, weight: WeightHandle) -> NDArray:
        return dy @ self._values(weight)

    def _values(self, weight: WeightHandle) -> NDArray:
        if isinstance(weight, PackedMatrix):
            return weight.values().astype(self.dtype)
        assert isinstance(weight, ReferenceWeight)
        return weight.values

    def fake_quantize(
        self,
        values: NDArray,
        codec: Codec,
        importance: NDArray | None = None,
        out: NDArray | None = None,
        inside: NDArray | None = None,
    ) -> NDArray:
        rounded = round_trip(codec, values.astype(np.float32), importance, inside=inside)
        if out is None:
            return rounded.astype(self.dtype)
        out[...] = rounded
        return out

    def keep_where(self, array: NDArray, kept: NDArray, out: NDArray | None = None) -> NDArray:
        return np.multiply(array, kept, out=out)

    # normalisation

    def rms_norm(self, x: NDArray, weight: NDArray, eps: float) -> tuple[NDArray, NDArray]:
        inv_rms = 1 / np.sqrt((x * x).mean(axis=-1) + float(eps))
        return weight * x * inv_rms[:, None], inv_rms

    def rms_norm_backward(
        self, dy: NDArray, x: NDArray, weight: NDArray, inv_rms: NDArray, need_weight: bool
    ) -> tuple[NDArray, NDArray | None]:
        normed = x * inv_rms[:, None]
        dnormed = dy * weight
        dx = inv_rms[:, None] * (dnormed - normed * (dnormed * normed).mean(axis=-1, keepdims=True))
        return dx, (dy * normed).sum(axis=0) if need_weight else None

    def layer_norm(self, x: NDArray, gamma: NDArray, beta: NDArray, eps: float) -> tuple[NDArray, NDArray, NDArray]:
        mean = x.mean(axis=-1)
        centred = x - mean[:, None]
        inv_std = 1 / np.sqrt((centred * centred).mean(axis=-1) + float(eps))
        return gamma * centred * inv_std[:, None] + beta, mean, inv_std

    def layer_norm_backward(
        self, dy: NDArray, x: NDArray, gamma: NDArray, mean: NDArray, inv_std: NDArray
    ) -> tuple[NDArray, NDArray, NDArray]:
        normed = (x - mean[:, None]) * inv_std[:, None]
        dnormed = dy * gamma
        along_normed = (dnormed * normed).mean(axis=-1, keepdims=True)
        dx = inv_std[:, None] * (dnormed - dnormed.mean(axis=-1, keepdims=True) - normed * along_normed)
        return dx, (dy * normed).sum(axis=0), dy.sum(axis=0)

    # activations

    def activation(self, kind: Activation, x: NDArray) -> NDArray:
        if kind == "relu":
            return np.maximum(x, 0)
        if kind == "gelu":
            return x * _normal_cdf(x)
        if kind == "gelu_tanh":
            return 0.5 * x * (1 + np.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x**3)))
        return x * _sigmoid(x)

    def activation_backward(self, kind: Activation, dy: NDArray, x: NDArray) -> NDArray:
        if kind == "relu":
            return np.where(x > 0, dy, np.zeros_like(dy))
        if kind == "gelu":
            density = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
            return dy * (_normal_cdf(x) + x * density)
        if kind == "gelu_tanh":
            t = np.tanh(_SQRT_2_OVER_PI * (x + _GELU_CUBIC * x**3))
            inner_slope = _SQRT_2_OVER_PI * (1 + 3 * _GELU_CUBIC * x * x)
            return dy * 0.5 * (1 + t + x * (1 - t * t) * inner_slope)
        return dy * _silu_slope(x)

    def swiglu(self, gate: NDArray, up: NDArray) -> NDArray:
        return gate * _sigmoid(gate) * up

    def swiglu_backward(self, dy: NDArray, gate: NDArray, up: NDArray) -> tuple[NDArray, NDArray]:
        return dy * up * _silu_slope(gate), dy * gate * _sigmoid(gate)

    def softmax(self, x: NDArray) -> NDArray:
        with np.errstate(invalid="ignore"):  # -inf - -inf is the NaN that a row of all -inf asks for
            exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    def softmax_backward(self, dy: NDArray, y: NDArray) -> NDArray:
        return y * (dy - (dy * y).sum(axis=-1, keepdims=True))

    # attention

    def rope(self, x: NDArray, cos: NDArray, sin: NDArray, pairing: RopePairing, inverse: bool = False) -> NDArray:
        return reference_attention.turn(x, cos, sin, pairing, inverse)

    def attention(
        self, q: NDArray, k: NDArray, v: NDArray, lower: NDArray, params: AttentionParams
    ) -> tuple[NDArray, NDArray]:
        return reference_attention.attend(q, k, v, lower, params)

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
        return reference_attention.attend_backward(dout, q, k, v, out, lse, lower, params)

    # embedding, dropout (losses: `ReferenceLosses`)

    def embedding(self, table: NDArray, ids: NDArray) -> NDArray:
        return table[ids]

    def embedding_packed(self, table: WeightHandle, ids: NDArray) -> NDArray:
        return self._values(table)[ids]

    def embedding_backward(self, dy: NDArray, ids: NDArray, out: NDArray) -> None:
        np.add.at(out, ids, dy)  # unbuffered: repeated ids add up, row after row

    def loss_rows(self, n_columns: int, weight: WeightHandle | None) -> int:
        del weight
        return max(16, (16 << 20) // (n_columns * self.dtype.itemsize))

    def take_rows(self, x: NDArray, rows: NDArray) -> NDArray:
        return x[rows]

    def put_rows(self, rows: NDArray, values: NDArray, out: NDArray) -> None:
        out[rows] = values

    def dropout(self, x: NDArray, p: float, key: DropoutKey) -> NDArray:
        bits = _splitmix64(np.arange(1, x.size + 1, dtype=np.uint64) * np.uint64(_GOLDEN_GAMMA), key.mixed())
        kept = (bits >> np.uint64(32)) >= np.uint64(int(p * 2**32))
        return np.where(kept.reshape(x.shape), x / (1 - float(p)), np.zeros_like(x))

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
        for parameter, grad, m, v in arrays if factor is not None else ():
            _adam(parameter, grad * factor, m, v, params)

    def sgd_steps(
        self,
        arrays: Sequence[tuple[NDArray, NDArray, NDArray | None]],
        params: SGDParams,
        clipping: Clipping | None = None,
    ) -> None:
        factor = host_factor(clipping)
        for parameter, grad, buffer in arrays if factor is not None else ():
            _sgd(parameter, grad * factor, buffer, params)

    def sum_of_squares(self, array: NDArray) -> float:
        return float(np.square(array, dtype=np.float64).sum())

    def all_finite(self, array: NDArray) -> bool:
        return bool(np.isfinite(array).all())

    def close(self) -> None:
        """Nothing to stop."""


def _adam(parameter: NDArray, g: NDArray, m: NDArray, v: NDArray, params: AdamParams) -> None:
    if params.decoupled:
        parameter -= params.lr * params.weight_decay * parameter
    else:
        g = g + params.weight_decay * parameter
    m[...] = params.beta1 * m + (1 - params.beta1) * g
    v[...] = params.beta2 * v + (1 - params.beta2) * g * g
    m_hat = m / (1 - params.beta1**params.step)
    v_hat = v / (1 - params.beta2**params.step)
    parameter -= params.lr * m_hat / (np.sqrt(v_hat) + params.eps)


def _sgd(parameter: NDArray, g: NDArray, buffer: NDArray | None, params: SGDParams) -> None:
    g = g + params.weight_decay * parameter
    if buffer is not None:
        buffer[...] = g if params.first_step else params.momentum * buffer + g
        g = g + params.momentum * buffer if params.nesterov else buffer
    parameter -= params.lr * g


def _sigmoid(x: NDArray) -> NDArray:
    """1/(1+e^-x) without overflow on either side."""
    decay = np.exp(-np.abs(x))
    return np.where(x >= 0, np.ones_like(x), decay) / (1 + decay)


def _silu_slope(x: NDArray) -> NDArray:
    """d(x·σ(x))/dx = σ·(1 + x·(1-σ))."""
    sigma = _sigmoid(x)
    return sigma * (1 + x * (1 - sigma))


def _normal_cdf(x: NDArray) -> NDArray:
    """Φ(x) = erfc(-x/√2)/2, computed in float64: exact in both tails, where 1 + erf cancels."""
    cdf = 0.5 * _erfc(-x.astype(np.float64) / math.sqrt(2)) if x.size else np.empty(x.shape)
    return cdf.astype(x.dtype)


def _splitmix64(counters: NDArray, start: int) -> NDArray:
    """`base.splitmix64(start + counter)` for each counter; uint64 arithmetic wraps as the definition wants."""
    z = counters + np.uint64(start)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))

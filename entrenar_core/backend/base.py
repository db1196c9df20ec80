"""The protocol that every backend fulfils: what the autograd ops and optimizers may ask of a device.

A backend owns its array module, its buffers and its kernels. Kernels come in forward/backward pairs, take and return
arrays of the backend (never tensors), allocate their results from the backend's pool, and never change an argument
unless the docstring says so. Shapes use B batch, T time, D model, H heads, K kv heads, E head dim, F ffn, V vocab,
R rank, M any number of rows. Floating arrays are C-contiguous and of `dtype` unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np

from entrenar_core.backend.clipping import Clipping
from entrenar_core.backend.parameters import AdamParams, AttentionParams, DistillationParams, DropoutKey, SGDParams
from entrenar_core.codecs.base import Codec
from entrenar_core.codecs.packed import PackedMatrix

Array = Any
"""An array of the backend: numpy.ndarray or cupy.ndarray."""

RopePairing = Literal["interleaved", "halves"]
"""Which components turn together: (2i, 2i+1), or (i, i + E/2)."""

Activation = Literal["relu", "gelu", "gelu_tanh", "silu"]


class WeightHandle(Protocol):
    """A frozen weight [out, in] in whatever form the backend multiplies by (dense, bf16, packed GGUF blocks)."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def n_bytes(self) -> int: ...


class Backend(Protocol):
    """A device: array module, memory, matrix products, fused kernels, fused optimizer steps."""

    name: str
    xp: Any
    dtype: np.dtype[Any]
    """Of parameters, their gradients, statistics of rows, logits and losses."""
    compute_dtype: np.dtype[Any]
    """Of activations and their gradients; products of them accumulate in `dtype`, or wider."""
    n_threads: int
    runs_ahead: bool
    """Whether kernels are queued, so that the host may do something else while they run."""
    takes_floats_packed: bool
    """Whether frozen matrices of floating types are better handed over as they lie in the file (`prepare_packed`) than
    as arrays of `dtype`."""

    # memory
    def empty(self, shape: Sequence[int], dtype: Any = None) -> Array:
        """An uninitialised array from the pool; its memory returns to the pool when the last view of it dies."""
        ...

    def zeros(self, shape: Sequence[int], dtype: Any = None) -> Array: ...

    def asarray(self, values: Any, dtype: Any = None) -> Array:
        """Host values as an array of the backend; floating input becomes `dtype` unless another one is given, other
        kinds keep theirs. The result may share memory with a host array that already fits."""
        ...

    def to_host(self, array: Array) -> np.ndarray:
        """The values on the host, in `dtype` if they are of `compute_dtype`."""
        ...

    def cast(self, array: Array, dtype: Any) -> Array:
        """The array in another floating dtype; itself if it has it."""
        ...

    # elementwise (arrays of one shape; `out` may be an argument)
    def add(self, a: Array, b: Array, out: Array | None = None) -> Array: ...
    def multiply(self, a: Array, b: Array, out: Array | None = None) -> Array: ...
    def scale(self, a: Array, factor: float, out: Array | None = None) -> Array: ...

    def add_bias(self, y: Array, bias: Array) -> None:
        """y [M, N] += bias [N]."""
        ...

    def sum_rows(self, x: Array) -> Array:
        """The sum of the rows of x [M, N], in `dtype` -> [N]."""
        ...

    # matrix products
    def gemm(
        self,
        a: Array,
        b: Array,
        out: Array | None = None,
        *,
        alpha: float = 1.0,
        beta: float = 0.0,
        dtype: Any = None,
    ) -> Array:
        """out = alpha·a@b + beta·out for 2-D views (pass ``x.T`` for a transposed operand, no copy is made).

        With beta 0, `out` is not read (it may hold NaN). `out` may be a strided view, and overlaps neither a nor b.
        Without `out`, the result is of `dtype`, or of `compute_dtype` if an operand is and no other is asked for.
        """
        ...

    def prepare_weight(self, weight: Array) -> WeightHandle:
        """A frozen dense weight [out, in] in the form this backend multiplies fastest; it is not copied if dense."""
        ...

    def prepare_packed(self, weight: PackedMatrix) -> WeightHandle:
        """A frozen weight [out, in] in GGML blocks, which stays packed: products decode a tile of it at a time."""
        ...

    def linear(self, x: Array, weight: WeightHandle, dtype: Any = None) -> Array:
        """x [M, in] -> x @ weight.T [M, out]; of `dtype`, or as `gemm` has it."""
        ...

    def linear_input_grad(self, dy: Array, weight: WeightHandle) -> Array:
        """dy [M, out] -> dy @ weight [M, in]."""
        ...

    def fake_quantize(
        self,
        values: Array,
        codec: Codec,
        importance: np.ndarray | None = None,
        out: Array | None = None,
        inside: Array | None = None,
    ) -> Array:
        """values [out, in] as their type would give them back: decode(encode(values)) of the codec, bit for bit.

        Args:
            values: a matrix whose rows are whole blocks of the type.
            codec: of the type; rows are encoded by themselves.
            importance: float32 [in] on the host; see `Codec.encode`.
            out: where the result goes; not `values`.
            inside: bool [out, in], filled with which values lie in the range of their block; see `round_trip.in_range`.

        Raises:
            FormatError: a value does not fit the type, or the type can only be decoded.
        """
        ...

    def keep_where(self, array: Array, kept: Array, out: Array | None = None) -> Array:
        """array·kept for bool `kept` of the same shape; `out` may be `array`."""
        ...

    # normalisation (rows over the last axis, x [M, D])
    def rms_norm(self, x: Array, weight: Array, eps: float) -> tuple[Array, Array]:
        """y = weight·x/√(mean(x²)+eps) (Zhang & Sennrich 2019); returns y [M, D] and the inverse RMS [M]."""
        ...

    def rms_norm_backward(
        self, dy: Array, x: Array, weight: Array, inv_rms: Array, need_weight: bool
    ) -> tuple[Array, Array | None]:
        """Gradients of x [M, D] and, if needed, of weight [D]."""
        ...

    def layer_norm(self, x: Array, gamma: Array, beta: Array, eps: float) -> tuple[Array, Array, Array]:
        """y = gamma·(x-mean)/√(var+eps) + beta (Ba et al. 2016); returns y [M, D], mean [M], inverse std [M]."""
        ...

    def layer_norm_backward(
        self, dy: Array, x: Array, gamma: Array, mean: Array, inv_std: Array
    ) -> tuple[Array, Array, Array]:
        """Gradients of x [M, D], gamma [D] and beta [D]."""
        ...

    # activations (any shape)
    def activation(self, kind: Activation, x: Array) -> Array:
        """relu, gelu (x·Φ(x), exact erf), gelu_tanh (its tanh form), silu (x·σ(x))."""
        ...

    def activation_backward(self, kind: Activation, dy: Array, x: Array) -> Array: ...

    def swiglu(self, gate: Array, up: Array) -> Array:
        """silu(gate)·up (Shazeer 2020)."""
        ...

    def swiglu_backward(self, dy: Array, gate: Array, up: Array) -> tuple[Array, Array]:
        """Gradients of gate and up."""
        ...

    def softmax(self, x: Array) -> Array:
        """Softmax of each row of x [M, N]; a row of all -inf gives NaN, as in torch."""
        ...

    def softmax_backward(self, dy: Array, y: Array) -> Array:
        """dx = y·(dy - <dy, y>) for each row; y is the softmax."""
        ...

    # attention
    def rope(self, x: Array, cos: Array, sin: Array, pairing: RopePairing, inverse: bool = False) -> Array:
        """Turn the first 2·P components of each head of x [B, T, H, E] by angles: cos, sin [B, T, P] (Su et al. 2021).

        `inverse` turns back, which is also the gradient. Components from 2·P on are copied. With "halves" the pairs are
        (i, i + P), with "interleaved" (2i, 2i + 1).
        """
        ...

    def attention(self, q: Array, k: Array, v: Array, lower: Array, params: AttentionParams) -> tuple[Array, Array]:
        """Causal grouped-query attention with document isolation and sliding windows.

        q [B, Tq, H, E], k and v [B, Tk, K, E] (H a multiple of K; may be strided in B and T), lower int32 [B, Tq].
        Query i (at index i + q_offset among the keys) sees the keys lower[b, i] ... i + q_offset, with 0 <= lower[b, i]
        <= i + q_offset < Tk. Query head h reads kv head h // (H/K). Returns out [B, Tq, H, E] and the log-sum-exp of
        the scaled and capped scores [B, H, Tq].
        """
        ...

    def attention_backward(
        self, dout: Array, q: Array, k: Array, v: Array, out: Array, lse: Array, lower: Array, params: AttentionParams
    ) -> tuple[Array, Array, Array]:
        """Gradients of q, k and v, contiguous; scores are computed again from q, k and lse (Dao et al. 2022)."""
        ...

    # embedding, loss, dropout
    def embedding(self, table: Array, ids: Array) -> Array:
        """Rows of table [V, D] for ids int32 [M] -> [M, D]."""
        ...

    def embedding_packed(self, table: WeightHandle, ids: Array) -> Array:
        """Rows of a table [V, D] in GGML blocks, decoded for ids int32 [M] -> [M, D]."""
        ...

    def embedding_backward(self, dy: Array, ids: Array, out: Array) -> None:
        """out [V, D] += dy [M, D] summed by ids, in the order of the rows."""
        ...

    def loss_rows(self, n_columns: int, weight: WeightHandle | None) -> int:
        """How many rows of logits [rows, n_columns] a fused loss does well to make at a time; `weight` is the handle
        that makes them, or None for a trainable matrix."""
        ...

    def take_rows(self, x: Array, rows: Array) -> Array:
        """The rows int32 [m] of x [M, D], in their order: [m, D]."""
        ...

    def put_rows(self, rows: Array, values: Array, out: Array) -> None:
        """The rows int32 [m], which are all different, of out [M, D] become values [m, D]."""
        ...

    def cross_entropy(self, logits: Array, labels: Array, grad_scale: float | None) -> Array:
        """-log softmax(logits)[label] of each row: logits [M, V], labels int32 [M] (all ≥ 0) -> losses [M].

        With a `grad_scale`, `logits` is overwritten by grad_scale·(softmax - onehot); with None it is left alone.
        """
        ...

    def log_softmax(self, logits: Array, temperature: float) -> None:
        """Each row of logits [M, n] becomes log softmax(row / temperature), in place."""
        ...

    def distillation(
        self,
        logits: Array,
        teacher: Array,
        targets: Array | None,
        weights: Array | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[Array, Array]:
        """Divergences [M] of a student's logits [M, V] from its teacher, and cross-entropies [M] with its targets.

        teacher [M, n]: log-probabilities at the temperature (see `log_softmax`), which sum to one, or logits for
        logit_mse. The first n ≤ V columns are compared, with a softmax over those alone. targets int32 [M]: with
        alpha 1 there may be none, and the cross-entropies are zeros. weights [M]: how much each divergence counts
        (None: 1 each). The divergences returned carry temperature², but neither alpha nor weights.

        With a `scale`, `logits` is overwritten by the gradient of
        scale·Σ (alpha·weights·divergences + (1-alpha)·cross-entropies); with None it is left alone.
        """
        ...

    def distillation_top_k(
        self,
        logits: Array,
        ids: Array,
        values: Array,
        log_tail: Array,
        n: int,
        targets: Array | None,
        weights: Array | None,
        params: DistillationParams,
        scale: float | None,
    ) -> tuple[Array, Array]:
        """`distillation` where the teacher is known on K of its n tokens a row: those ids int32 [M, K], all different.

        values [M, K]: their log-probabilities; log_tail [M]: the log of what is left for the other n-K together, which
        are one outcome of K+1. With K = n it is not looked at. logit_mse compares the K logits.
        """
        ...

    def take_columns(self, x: Array, columns: Array) -> Array:
        """The columns int32 [n] of x [M, V], in their order: [M, n]."""
        ...

    def add_to_columns(self, x: Array, columns: Array, values: Array) -> None:
        """x [M, V] += values [M, n] in the columns int32 [n], which are all different."""
        ...

    def dropout(self, x: Array, p: float, key: DropoutKey) -> Array:
        """x/(1-p) where the mask keeps an element, else 0 (even for NaN); 0 <= p < 1. Applied to dy it is its gradient.

        Element i (of the flattened array) is kept when the top 32 bits of `splitmix64` of
        key.mixed() + (i+1)·0x9E3779B97F4A7C15 are ≥ p·2³² (rounded down), so every backend draws the same mask.
        """
        ...

    # optimizers (parameter and state arrays are changed in place; any shape)
    def plan_clipping(
        self, grads: Sequence[Array], max_norm: float | None = None, loss: Array | float = 0.0
    ) -> Clipping:
        """How gradients are clipped to a global norm, summed in float64; None: not at all.

        loss: a scalar of the backend, which an update has to find finite too.
        """
        ...

    def adam_steps(
        self,
        arrays: Sequence[tuple[Array, Array, Array, Array]],
        params: AdamParams,
        clipping: Clipping | None = None,
    ) -> None:
        """Update each (parameter, gradient, m, v), gradients multiplied by the factor of `clipping` before all else.

        Nothing changes if its loss or norm is not finite.
        """
        ...

    def sgd_steps(
        self,
        arrays: Sequence[tuple[Array, Array, Array | None]],
        params: SGDParams,
        clipping: Clipping | None = None,
    ) -> None:
        """The same for (parameter, gradient, momentum buffer or None)."""
        ...

    def sum_of_squares(self, array: Array) -> float:
        """Σ x² accumulated in float64."""
        ...

    def all_finite(self, array: Array) -> bool:
        """False if any element is NaN or infinite."""
        ...

    def peak_device_bytes(self) -> int | None:
        """The most memory that was held on the device so far; None where it is the process's own."""
        ...

    def environment(self) -> dict[str, str]:
        """What the bits of a result depend on besides the host: the device and its libraries, by name."""
        ...

    def free_device_bytes(self) -> int | None:
        """Memory of the device that nobody holds; None where it is the system's own."""
        ...

    def notes(self) -> tuple[str, ...]:
        """What a log should say of how things were computed so far, a line each."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was asked for is done, as a clock must."""
        ...

    def close(self) -> None:
        """Stop threads and give memory back."""
        ...

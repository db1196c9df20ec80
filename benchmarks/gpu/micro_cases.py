"""Single kernels of the backend at the sizes of training, as a share of what the card was measured to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from benchmarks.gpu.attention_cases import paths_since
from benchmarks.gpu.child import Message
from benchmarks.gpu.large_cases import bits_of
from benchmarks.gpu.subject import Subject
from benchmarks.gpu.timing import Timer, Work, seconds_of
from entrenar_core.autograd.ops.matmul import matmul
from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.documents import HostLower
from entrenar_core.backend.parameters import AdamParams, AttentionParams
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import codec_for

GOAL_MET, GOAL_MISSED = "goal met", "goal missed"

DECODED = ("Q4_0", "Q8_0", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ2_XXS", "MXFP4")
"""The types whose decoding is timed."""

BACKWARD_LIMIT = 3.0
"""What the backward pass of a matrix product of 512² may cost, in units of the forward pass."""


@dataclass(frozen=True)
class MicroSizes:
    """Of the arrays.

    Attributes:
        gemm: n of the product that sets the limit.
        packed: [out, in] of weights in blocks.
        attention: B, H, K, E; lengths: its T.
        rows, logits: [M, D] and [M, V].
        parameters: of AdamW.
        copied: bytes.
        small: n of the product on the tape.
    """

    gemm: int = 8192
    packed: tuple[int, int] = (14336, 8192)
    attention: tuple[int, int, int, int] = (2, 32, 8, 128)
    lengths: tuple[int, ...] = (2048, 8192)
    rows: tuple[int, int] = (16384, 4096)
    logits: tuple[int, int] = (2048, 32000)
    parameters: int = 1_000_000_000
    copied: int = 1 << 30
    small: int = 512


@dataclass(frozen=True)
class Figure:
    """One measured number, and what it is held against."""

    name: str
    how: str
    value: float
    unit: str
    against: str = ""
    verdict: str = ""

    def message(self) -> Message:
        return asdict(self)


class Bench:
    """What the cases measure with.

    Args:
        subject: the device.
        timer: of its work.
        sizes: of the arrays.
    """

    def __init__(self, subject: Subject, timer: Timer, sizes: MicroSizes) -> None:
        self.subject = subject
        self.timer = timer
        self.sizes = sizes
        self.backend = subject.backends["bfloat16"]
        self.bfloat16 = self.backend.compute_dtype

    def seconds(self, work: Work) -> float:
        return seconds_of(self.timer, work)

    def random(self, *shape: int, dtype: Any = None) -> Any:
        """Random numbers on the device, bfloat16 unless said otherwise: one block of them again and again."""
        array = self.backend.empty(shape, self.bfloat16 if dtype is None else dtype)
        flat = bits_of(array.reshape(-1))
        block = bits_of(self.backend.cast(self.backend.asarray(_block()[: flat.size]), array.dtype))
        whole = flat.size // block.size * block.size
        flat[:whole].reshape(-1, block.size)[...] = block
        flat[whole:] = block[: flat.size - whole]
        return array

    @cached_property
    def copy_rate(self) -> float:
        """Bytes read and written in a second while the device copies a large array."""
        source, target = (self.backend.empty((self.sizes.copied // 4,)) for _ in range(2))
        source.fill(1)

        def copy() -> None:
            target[...] = source

        return 2 * self.sizes.copied / self.seconds(copy)

    @cached_property
    def matrix_rate(self) -> float:
        """FLOP in a second of a large product of random bfloat16 numbers."""
        n = self.sizes.gemm
        a, b, out = self.random(n, n), self.random(n, n), self.backend.empty((n, n), self.bfloat16)
        return 2 * n**3 / self.seconds(lambda: self.backend.gemm(a, b, out))

    def bandwidth(self, name: str, how: str, n_bytes: float, work: Work) -> Figure:
        """GB/s of what a kernel has to read and write."""
        rate = n_bytes / self.seconds(work)
        return Figure(name, how, rate / 1e9, "GB/s", f"{rate / self.copy_rate:.0%} of copying")

    def arithmetic(self, name: str, how: str, flops: float, work: Work) -> Figure:
        """TFLOP/s of what a kernel has to compute."""
        rate = flops / self.seconds(work)
        return Figure(name, how, rate / 1e12, "TFLOP/s", f"{rate / self.matrix_rate:.0%} of the large product")


def _block() -> np.ndarray:
    """16777213 normal numbers, a prime number of them, so that no rows of a matrix are equal."""
    return np.random.default_rng(0).standard_normal(16_777_213, np.float32)


def limits(bench: Bench) -> Iterator[Figure]:
    """What the card does: copying, and the large product that MFU is a share of."""
    n = bench.sizes.gemm
    yield Figure("matrix product", f"bfloat16 {n}³", bench.matrix_rate / 1e12, "TFLOP/s", "the limit of MFU")
    yield Figure("copying on the device", f"{bench.sizes.copied / 2**30:g} GiB", bench.copy_rate / 1e9, "GB/s")


def products(bench: Bench) -> Iterator[Figure]:
    """The three products of a linear layer: output, input gradient, weight gradient in float32."""
    n, backend = bench.sizes.gemm // 2, bench.backend
    x, weight, gradient = bench.random(n, n), bench.random(n, n), backend.zeros((n, n))
    out = backend.empty((n, n), bench.bfloat16)
    flops, how = 2 * n**3, f"bfloat16 {n}³"
    yield bench.arithmetic("x Wᵀ", how, flops, lambda: backend.gemm(x, weight.T, out))
    yield bench.arithmetic("dy W", how, flops, lambda: backend.gemm(x, weight, out))
    yield bench.arithmetic("dyᵀ x added to float32", how, flops, lambda: backend.gemm(x.T, weight, gradient, beta=1.0))


def small_products(bench: Bench) -> Iterator[Figure]:
    """Backward over forward of one product on the tape, which costs two."""
    n = bench.sizes.small
    for dtype, backend in bench.subject.backends.items():
        values = np.random.default_rng(1).standard_normal((3, n, n)).astype(np.float32)
        arrays = [backend.cast(backend.asarray(each), backend.compute_dtype) for each in values]
        a, b = (Tensor(each, backend, requires_grad=True) for each in arrays[:2])
        forward, backward = _forward_and_backward(bench.timer, a, b, arrays[2])
        ratio = backward / forward
        verdict = GOAL_MET if ratio <= BACKWARD_LIMIT else GOAL_MISSED
        how = f"{dtype} {n}²"
        yield Figure("product on the tape, forward", how, forward * 1e6, "µs")
        yield Figure("its backward over its forward", how, ratio, "times", f"≤ {BACKWARD_LIMIT:g}", verdict)


def _forward_and_backward(timer: Timer, a: Tensor, b: Tensor, gradient: Any, calls: int = 40) -> tuple[float, float]:
    """Seconds of each, medians over rounds of many calls; the first round warms up."""
    taken = []
    for _ in range(6):
        recorded: list[tuple[Tape, Tensor]] = []

        def forward(into: list[tuple[Tape, Tensor]] = recorded) -> None:
            with Tape() as tape:
                into.append((tape, matmul(a, b)))

        def backward(of: list[tuple[Tape, Tensor]] = recorded) -> None:
            tape, result = of.pop()
            tape.backward(result, gradient)
            a.zero_grad()
            b.zero_grad()

        taken.append((timer.seconds(forward, calls) / calls, timer.seconds(backward, calls) / calls))
    forwards, backwards = zip(*taken[1:], strict=True)
    return float(np.median(forwards)), float(np.median(backwards))


def attention(bench: Bench) -> Iterator[Figure]:
    """Causal, forward and backward, by the library and from products; the upper half of the scores is not counted."""
    for length in bench.sizes.lengths:
        for subject in (bench.subject, bench.subject.without_library):
            yield from _attention(bench, subject.backends["bfloat16"], length)


def _attention(bench: Bench, backend: Any, length: int) -> Iterator[Figure]:
    batch, heads, kv_heads, width = bench.sizes.attention
    q, dout = (bench.random(batch, length, heads, width) for _ in range(2))
    k, v = (bench.random(batch, length, kv_heads, width) for _ in range(2))
    known = HostLower(np.zeros((batch, length), np.int32))
    lower, params = backend.asarray(known.values), AttentionParams(width**-0.5, host_lower=known)
    paths_since(backend)
    out, lse = backend.attention(q, k, v, lower, params)
    backend.attention_backward(dout, q, k, v, out, lse, lower, params)
    way = ", ".join(sorted(paths_since(backend)))
    flops, how = attention_flops(batch, heads, length, width), f"B{batch} T{length} H{heads} K{kv_heads} E{width}"
    forward = partial(backend.attention, q, k, v, lower, params)
    backward = partial(backend.attention_backward, dout, q, k, v, out, lse, lower, params)
    yield bench.arithmetic(f"attention, {way}", how, flops, forward)
    yield bench.arithmetic(f"attention, backward, {way}", how, 2.5 * flops, backward)


def attention_flops(batch: int, heads: int, length: int, width: int) -> float:
    """Of the two products of causal attention forward; backward has five."""
    return 2 * 2 * batch * heads * width * length**2 / 2


def decoding(bench: Bench) -> Iterator[Figure]:
    """Every row of a matrix looked up: blocks read and bfloat16 written."""
    n_out, n_in = bench.sizes.packed
    backend, how = bench.backend, f"[{n_out}, {n_in}]"
    ids = backend.asarray(np.arange(n_out, dtype=np.int32))
    rng = np.random.default_rng(1)
    for type_name in DECODED:
        codec = codec_for(type_name)
        raw = rng.integers(0, 256, (n_out, n_in // codec.block_size * codec.block_bytes), np.uint8)
        handle = backend.prepare_packed(PackedMatrix(raw, type_name))
        n_bytes = raw.nbytes + 2 * n_out * n_in
        work = partial(backend.embedding_packed, handle, ids)
        yield bench.bandwidth(f"decoding {type_name}", how, n_bytes, work)


def optimizer(bench: Bench) -> Iterator[Figure]:
    """Parameters, gradients, m and v read, three of them written."""
    n, backend = bench.sizes.parameters, bench.backend
    arrays = tuple(bench.random(n, dtype=np.float32) for _ in range(3))
    v = backend.zeros((n,))
    adam = AdamParams(1e-3, 0.9, 0.999, 1e-8, 0.01, decoupled=True, step=10)
    yield bench.bandwidth("AdamW", f"{n:,} parameters", 28.0 * n, lambda: backend.adam_steps([(*arrays, v)], adam))


def rows(bench: Bench) -> Iterator[Figure]:
    """RMS norm, SwiGLU, and adding to the residual stream."""
    n_rows, width = bench.sizes.rows
    backend, how, size = bench.backend, f"[{n_rows}, {width}]", 2 * n_rows * width
    x, dy, weight = bench.random(n_rows, width), bench.random(n_rows, width), bench.random(width, dtype=np.float32)
    _, inverse = backend.rms_norm(x, weight, 1e-5)
    yield bench.bandwidth("rms_norm", how, 2 * size, lambda: backend.rms_norm(x, weight, 1e-5))
    for name, need in (("rms_norm_backward", False), ("rms_norm_backward with its weight", True)):
        call = (dy, x, weight, inverse, need)
        yield bench.bandwidth(name, how, 3 * size, lambda c=call: backend.rms_norm_backward(*c))
    yield bench.bandwidth("swiglu", how, 3 * size, lambda: backend.swiglu(x, dy))
    yield bench.bandwidth("swiglu_backward", how, 5 * size, lambda: backend.swiglu_backward(dy, x, dy))
    yield bench.bandwidth("add", how, 3 * size, lambda: backend.add(x, dy))


def losses(bench: Bench) -> Iterator[Figure]:
    """Logits read once and written once."""
    n_rows, vocab = bench.sizes.logits
    logits = bench.random(n_rows, vocab, dtype=np.float32)
    labels = bench.backend.asarray(np.arange(n_rows, dtype=np.int32))
    n_bytes, how = 8.0 * n_rows * vocab, f"[{n_rows}, {vocab}]"
    yield bench.bandwidth("cross_entropy", how, n_bytes, lambda: bench.backend.cross_entropy(logits, labels, 0.5))


def launches(bench: Bench) -> Iterator[Figure]:
    """The least that a call of the backend costs: the host's time, where the device has nothing to do."""
    one = bench.random(1)
    seconds = bench.seconds(lambda: bench.backend.add(one, one))
    yield Figure("a call of the backend", "one element", seconds * 1e6, "µs")


CASES = {
    "limits": limits,
    "products": products,
    "small products": small_products,
    "attention": attention,
    "decoding": decoding,
    "optimizer": optimizer,
    "rows": rows,
    "losses": losses,
    "launches": launches,
}

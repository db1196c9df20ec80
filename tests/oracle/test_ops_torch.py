"""Every op but attention against torch: values and gradients, on realistic and on awkward shapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (extra: oracle)")

from entrenar_core.autograd.ops import (  # noqa: E402
    activation,
    dropout,
    elementwise,
    embedding,
    loss,
    low_rank,
    matmul,
    norm,
    reduce,
    rope,
    shape,
)
from entrenar_core.autograd.tensor import Tensor  # noqa: E402
from entrenar_core.backend.base import DropoutKey  # noqa: E402
from tests.oracle.op_comparison import BACKENDS, Case, compare, normal  # noqa: E402

functional = torch.nn.functional

KEY = DropoutKey(seed=3, step=14, micro_batch=1, module=59)


def positive(*sizes: int) -> np.ndarray:
    return np.abs(normal(*sizes)) + 0.5


def plain(op: Callable[..., Tensor], theirs: Callable[..., Any], *inputs: np.ndarray, **params: Any) -> Case:
    """A case of an op that takes its tensors and nothing of the backend."""
    return Case(lambda _, *tensors: op(*tensors, **params), theirs, inputs)


def embedding_case(vocab: int, width: int, *ids_shape: int) -> Case:
    ids = np.random.default_rng(0).integers(0, vocab, ids_shape).astype(np.int32)
    ids.reshape(-1)[:2] = 0, vocab - 1
    return Case(
        lambda _, table: embedding.embedding(table, ids),
        lambda table: functional.embedding(torch.tensor(ids, dtype=torch.int64), table),
        [normal(vocab, width)],
    )


def labels_for(rows: int, vocab: int, ignored: float) -> np.ndarray:
    rng = np.random.default_rng(rows)
    labels = rng.integers(0, vocab, rows).astype(np.int32)
    labels[:2] = 0, vocab - 1
    labels[2:][rng.random(rows - 2) < ignored] = -100
    return labels


def torch_loss(logits: Any, labels: np.ndarray, scale: float) -> Any:
    targets = torch.tensor(labels, dtype=torch.int64)
    return scale * functional.cross_entropy(logits, targets, ignore_index=-100, reduction="sum")


def cross_entropy_case(rows: int, vocab: int, ignored: float, size: float = 1.0) -> Case:
    labels = labels_for(rows, vocab, ignored)
    return Case(
        lambda _, logits: loss.cross_entropy(logits, labels, 1 / rows),
        lambda logits: torch_loss(logits, labels, 1 / rows),
        [size * normal(rows, vocab)],
    )


def squared_error_case(rows: int) -> Case:
    targets = 3 * normal(rows, seed=2)
    return Case(
        lambda _, predictions: loss.squared_error(predictions, targets, 1 / rows),
        lambda predictions: functional.mse_loss(predictions, torch.tensor(targets)),
        [normal(rows)],
    )


def fused_case(rows: int, width: int, vocab: int, chunk: int | None, *, frozen: bool = False) -> Case:
    labels = labels_for(rows, vocab, 0.3)

    def ours(backend: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        operand = backend.prepare_weight(weight.data) if frozen else weight
        return loss.linear_cross_entropy(hidden, operand, labels, 1 / rows, rows_per_chunk=chunk)

    inputs = [normal(rows, width), normal(vocab, width)]
    return Case(ours, lambda h, w: torch_loss(h @ w.T, labels, 1 / rows), inputs, frozenset([1] if frozen else []))


def lora_case(rows: tuple[int, ...], n_in: int, n_out: int, rank: int, p: float, *, bias: bool = False) -> Case:
    scale = 16 / rank
    mask = dropout_mask((int(np.prod(rows)), n_in), p).reshape(*rows, n_in)

    def ours(backend: Any, x: Tensor, w: Tensor, a: Tensor, b: Tensor, *rest: Tensor) -> Tensor:
        params = low_rank.LowRankParams(scale, p, KEY)
        return low_rank.lora_linear(x, backend.prepare_weight(w.data), a, b, rest[0] if rest else None, params)

    def theirs(x: Any, w: Any, a: Any, b: Any, *rest: Any) -> Any:
        adapted = scale * ((x * torch.tensor(mask)) @ a.T) @ b.T
        return functional.linear(x, w, *rest) + adapted

    inputs = [normal(*rows, n_in), normal(n_out, n_in), normal(rank, n_in), 0.1 * normal(n_out, rank)]
    return Case(ours, theirs, [*inputs, normal(n_out)] if bias else inputs, frozenset([1]))


def dropout_mask(sizes: tuple[int, ...], p: float) -> np.ndarray:
    """What the op multiplies by, from its definition: the top 32 bits of splitmix64 against p·2³²."""
    mask64 = (1 << 64) - 1
    start = KEY.mixed()
    kept = np.empty(int(np.prod(sizes)))
    for i in range(kept.size):
        z = (start + (i + 1) * 0x9E3779B97F4A7C15) & mask64
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask64
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask64
        kept[i] = (z ^ (z >> 31)) >> 32 >= int(p * 2**32)
    return kept.reshape(sizes) / (1 - p)


def dropout_case(p: float, *sizes: int) -> Case:
    mask = dropout_mask(sizes, p)
    return plain(dropout.dropout, lambda x: x * torch.tensor(mask), normal(*sizes), p=p, key=KEY)


def hf_rope(x: Any, angles: np.ndarray) -> Any:
    """Hugging Face's form: x·cos + rotate_half(x)·sin with the angles repeated for both halves."""
    cos, sin = (torch.tensor(np.concatenate([f(angles)] * 2, axis=-1))[:, :, None] for f in (np.cos, np.sin))
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def complex_rope(x: Any, angles: np.ndarray) -> Any:
    """Meta's form: neighbouring pairs as complex numbers."""
    turned = torch.view_as_complex(x.reshape(*x.shape[:-1], -1, 2)) * torch.exp(1j * torch.tensor(angles))[:, :, None]
    return torch.view_as_real(turned).flatten(-2)


def rope_case(pairing: str, oracle: Callable[..., Any], batch: int, time: int, heads: int, width: int) -> Case:
    positions = np.stack([np.arange(time) + 7 * row for row in range(batch)])
    angles = positions[..., None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    return Case(
        lambda backend, x: rope.rope(x, backend.asarray(np.cos(angles)), backend.asarray(np.sin(angles)), pairing),
        lambda x: oracle(x, angles),
        [normal(batch, time, heads, width)],
    )


def swiglu(gate: Any, up: Any) -> Any:
    return functional.silu(gate) * up


def rms_norm(x: Any, weight: Any) -> Any:
    return functional.rms_norm(x, weight.shape, weight, 1e-5)


def layer_norm(x: Any, gamma: Any, beta: Any) -> Any:
    return functional.layer_norm(x, gamma.shape, gamma, beta, 1e-5)


CASES: dict[str, Case] = {
    "add": plain(elementwise.add, torch.add, normal(7, 33), normal(7, 33)),
    "add broadcast": plain(elementwise.add, torch.add, normal(5, 1, 33), normal(7, 1)),
    "add residual": plain(elementwise.add, torch.add, normal(2, 64, 576), normal(2, 64, 576)),
    "subtract": plain(elementwise.subtract, torch.sub, normal(7, 33), normal(1, 33)),
    "multiply": plain(elementwise.multiply, torch.mul, normal(9, 1025), normal(9, 1025)),
    "multiply broadcast": plain(elementwise.multiply, torch.mul, normal(7, 1), normal(3, 1, 5)),
    "divide": plain(elementwise.divide, torch.div, normal(7, 33), positive(33)),
    "scale": plain(elementwise.scale, lambda x: -2.5 * x, normal(7, 33), factor=-2.5),
    "exp": plain(elementwise.exp, torch.exp, normal(7, 33)),
    "log": plain(elementwise.log, torch.log, positive(7, 33)),
    "sqrt": plain(elementwise.sqrt, torch.sqrt, positive(7, 33)),
    "power": plain(elementwise.power, lambda x: x**2.5, positive(7, 33), exponent=2.5),
    "tanh": plain(elementwise.tanh, torch.tanh, normal(7, 33)),
    "sum": plain(reduce.sum_, torch.sum, normal(7, 33)),
    "sum axes": plain(reduce.sum_, lambda x: x.sum((0, 2)), normal(3, 5, 7), axis=(0, -1)),
    "mean": plain(reduce.mean, torch.mean, normal(7, 33)),
    "mean axis": plain(reduce.mean, lambda x: x.mean(1, keepdim=True), normal(3, 5, 7), axis=1, keepdims=True),
    "max": plain(reduce.maximum, torch.amax, normal(7, 33)),
    "max axis": plain(reduce.maximum, lambda x: x.amax(-1), normal(3, 5, 7), axis=-1),
    "reshape": plain(shape.reshape, lambda x: x.reshape(5, 21), normal(3, 5, 7), shape=(5, -1)),
    "transpose": plain(shape.transpose, lambda x: x.permute(2, 0, 1), normal(3, 5, 7), axes=(2, 0, 1)),
    "slice": plain(shape.slice_, lambda x: x[1:, ..., 2], normal(3, 5, 7), index=(slice(1, None), ..., 2)),
    "concatenate": plain(lambda *x: shape.concatenate(x, 1), lambda *x: torch.cat(x, 1), normal(3, 5), normal(3, 2)),
    "broadcast_to": plain(shape.broadcast_to, lambda x: x.expand(4, 3, 5), normal(3, 1), shape=(4, 3, 5)),
    "matmul": plain(matmul.matmul, torch.matmul, normal(65, 130), normal(130, 33)),
    "matmul batched": plain(matmul.matmul, torch.matmul, normal(2, 3, 5, 7), normal(3, 7, 4)),
    "matmul outer": plain(matmul.matmul, torch.matmul, normal(5, 1), normal(1, 9)),
    "linear": plain(matmul.linear, functional.linear, normal(2, 48, 576), normal(192, 576)),
    "linear bias": plain(matmul.linear, functional.linear, normal(3, 17, 33), normal(65, 33), normal(65)),
    "linear one row": plain(matmul.linear, functional.linear, normal(1, 129), normal(7, 129), normal(7)),
    "frozen linear": Case(
        lambda backend, x, w, b: matmul.linear(x, backend.prepare_weight(w.data), b),
        functional.linear,
        [normal(3, 17, 33), normal(65, 33), normal(65)],
        frozenset([1]),
    ),
    "lora": lora_case((2, 48), 288, 192, 8, 0.0),
    "lora bias": lora_case((5,), 33, 17, 3, 0.0, bias=True),
    "lora dropout": lora_case((2, 9), 65, 33, 4, 0.1, bias=True),
    "relu": plain(activation.relu, functional.relu, normal(7, 1025)),
    "gelu": plain(activation.gelu, functional.gelu, 3 * normal(7, 1025)),
    "gelu tanh": plain(
        activation.gelu, lambda x: functional.gelu(x, approximate="tanh"), 3 * normal(7, 1025), approximate=True
    ),
    "silu": plain(activation.silu, functional.silu, 5 * normal(7, 1025)),
    "swiglu": plain(activation.swiglu, swiglu, 3 * normal(2, 33, 513), normal(2, 33, 513)),
    "softmax": plain(activation.softmax, lambda x: functional.softmax(x, -1), 4 * normal(2, 9, 257)),
    "softmax one column": plain(activation.softmax, lambda x: functional.softmax(x, -1), normal(9, 1)),
    "rms_norm": plain(norm.rms_norm, rms_norm, normal(2, 65, 576), normal(576)),
    "rms_norm narrow": plain(norm.rms_norm, rms_norm, 1e-3 * normal(2, 3, 5, 7), normal(7)),
    "rms_norm of one": plain(norm.rms_norm, rms_norm, normal(3, 1), normal(1)),
    "layer_norm": plain(norm.layer_norm, layer_norm, normal(2, 65, 576), normal(576), normal(576)),
    "layer_norm off centre": plain(norm.layer_norm, layer_norm, 10 + normal(5, 33), normal(33), normal(33)),
    "rope halves": rope_case("halves", hf_rope, 2, 65, 3, 64),
    "rope halves narrow": rope_case("halves", hf_rope, 1, 3, 1, 2),
    "rope interleaved": rope_case("interleaved", complex_rope, 2, 65, 3, 64),
    "rope interleaved odd pairs": rope_case("interleaved", complex_rope, 3, 5, 1, 10),
    "embedding": embedding_case(1000, 64, 2, 65),
    "embedding narrow": embedding_case(3, 1, 40),
    "dropout": dropout_case(0.1, 33, 65),
    "dropout most": dropout_case(0.9, 7),
    "cross_entropy": cross_entropy_case(65, 1000, 0.3),
    "cross_entropy sharp": cross_entropy_case(33, 257, 0.0, size=30.0),
    "cross_entropy two words": cross_entropy_case(5, 2, 0.5),
    "squared_error": squared_error_case(65),
    "squared_error of one": squared_error_case(1),
    "linear_cross_entropy": fused_case(130, 64, 1000, None),
    "linear_cross_entropy chunks": fused_case(130, 33, 257, 16),
    "linear_cross_entropy single rows": fused_case(9, 5, 7, 1),
    "linear_cross_entropy frozen": fused_case(65, 33, 257, 32, frozen=True),
}


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = BACKENDS[request.param]()
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients_are_torchs(name: str, backend: Any) -> None:
    compare(CASES[name], backend)

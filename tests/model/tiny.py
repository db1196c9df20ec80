"""Models small enough to compute by hand and lively enough that a mistake shows: no weight is 0, 1 or shared.

Nothing here is random from run to run: every tensor is drawn from a generator keyed by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from entrenar_core.autograd.tape import Tape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.initialize import spec_metadata
from entrenar_core.model.load import expected_shapes
from entrenar_core.model.module import PassKey
from entrenar_core.model.registry import ARCHITECTURES
from entrenar_core.model.spec import DecoderSpec

DOUBLE = ReferenceBackend(np.float64)
ARCHITECTURE_NAMES = tuple(ARCHITECTURES)


def tiny_spec(architecture: str = "llama", **changes: Any) -> DecoderSpec:
    """Two layers, D 16, two query heads of 8 on one kv head, F 24, V 40."""
    spec = DecoderSpec(
        traits=ARCHITECTURES[architecture],
        num_layers=2,
        hidden_size=16,
        num_heads=2,
        num_kv_heads=1,
        head_dim=8,
        intermediate_size=24,
        vocab_size=40,
        context_length=64,
        norm_eps=1e-5,
        rope_theta=100.0,
        rope_dimensions=8,
    )
    return replace(spec, **changes)


def lively(name: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """float32 values of a tensor: matrices keep the size of what they multiply; norms lie around 1, biases around 0."""
    noise = np.random.default_rng([seed, crc32(name.encode())]).standard_normal(shape)
    if name.endswith("norm.weight"):
        return (1 + 0.2 * noise).astype(np.float32)
    if name.endswith(".bias"):
        return (0.3 * noise).astype(np.float32)
    size = 1.0 if name == "token_embd.weight" else 1.5 / np.sqrt(shape[-1])
    return (size * noise).astype(np.float32)


def lively_weights(spec: DecoderSpec, seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor that the model must have, float32, by name."""
    return {name: lively(name, shape, seed) for name, shape in expected_shapes(spec).items()}


def build(
    spec: DecoderSpec,
    weights: dict[str, np.ndarray] | None = None,
    backend: Backend = DOUBLE,
    *,
    trainable: bool = True,
    **options: Any,
) -> LanguageModel:
    """The model on a backend; `options` go to `LanguageModel`."""
    arrays = lively_weights(spec) if weights is None else weights
    tensors = {
        name: Tensor(backend.asarray(array.copy()), backend, requires_grad=trainable, name=name)
        for name, array in arrays.items()
    }
    return LanguageModel(spec, tensors, backend, **options)


def write_model(
    path: Path,
    spec: DecoderSpec,
    weights: dict[str, np.ndarray] | None = None,
    *,
    type_name: str = "F32",
    metadata: Iterable[tuple[str, MetadataValue]] = (),
) -> Path:
    """The model as a GGUF file; `metadata` adds keys or takes the place of the model's own."""
    entries = dict(spec_metadata(spec, "tiny")) | dict(metadata)
    arrays = lively_weights(spec) if weights is None else weights
    write_gguf(path, entries.items(), [encode_tensor(name, array, type_name) for name, array in arrays.items()])
    return path


def tokens_of(*shape: int, vocab_size: int = 40, seed: int = 0) -> np.ndarray:
    """Random token ids, int32."""
    return np.random.default_rng(seed).integers(0, vocab_size, shape, dtype=np.int32)


def pack(rows: Sequence[Sequence[np.ndarray]], width: int) -> Batch:
    """A batch with the documents of each row one after another and padding at the end; the next token is the label.

    A document of n + 1 tokens takes n positions.
    """
    shape = (len(rows), width)
    tokens, positions = np.zeros(shape, np.int32), np.zeros(shape, np.int32)
    labels = np.full(shape, IGNORE, np.int32)
    starts = np.broadcast_to(np.arange(width, dtype=np.int32), shape).copy()
    for row, documents in enumerate(rows):
        start = 0
        for document in documents:
            part = slice(start, start + len(document) - 1)
            tokens[row, part], labels[row, part] = document[:-1], document[1:]
            positions[row, part] = np.arange(len(document) - 1)
            starts[row, part] = start
            start = part.stop
    n_tokens = sum(len(document) - 1 for documents in rows for document in documents)
    return Batch(tokens, labels, positions, starts, n_tokens, int((labels >= 0).sum()))


def loss_and_gradients(
    model: LanguageModel, batch: Batch, scale: float = 1.0, key: PassKey | None = None
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the gradient of every trainable tensor, by name, in a fresh copy."""
    for tensor in model.trainable().values():
        tensor.zero_grad()
    with Tape() as tape:
        loss = model.loss(batch, scale, key)
    tape.backward(loss)
    return float(loss.data), {
        name: np.array(model.backend.to_host(tensor.grad)) for name, tensor in model.trainable().items()
    }

"""A language model of four tensors on the real ops, and a data set to train it on in milliseconds.

A token sees only itself: embedding, RMS norm, a SiLU layer with dropout and a residual, and the output matrix with the
fused cross-entropy. It has a matrix, a vector and a random mask, which is all that the training loop cares about.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from entrenar_core.autograd.ops import activation, dropout, elementwise, embedding, loss, matmul, norm, shape
from entrenar_core.autograd.tensor import Tensor
from entrenar_core.backend.base import Backend
from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples, ExampleStore
from entrenar_core.data.loader import Loader
from entrenar_core.events import Eval, Event, Step
from entrenar_core.model.module import PassKey
from entrenar_core.optim.adam import AdamW
from entrenar_core.optim.base import Optimizer
from entrenar_core.optim.schedule import Schedule
from entrenar_core.train.checkpoint import RunRecord
from entrenar_core.train.checkpoint_store import CHECKPOINTS, CheckpointStore
from entrenar_core.train.loop import Trainer
from entrenar_core.train.metrics import MetricsFile
from entrenar_core.train.settings import TrainSettings

VOCAB, WIDTH = 11, 6
SHAPES = {
    "token_embd.weight": (VOCAB, WIDTH),
    "attn_norm.weight": (WIDTH,),
    "ffn_up.weight": (WIDTH, WIDTH),
    "output.weight": (VOCAB, WIDTH),
}


class TinyModel:
    """Fulfils `entrenar_core.train.parts.Learner`."""

    def __init__(self, backend: Backend | None = None, *, dropout: float = 0.0, seed: int = 0) -> None:
        self.backend = ReferenceBackend(np.float32) if backend is None else backend
        self.dropout = dropout
        rng = np.random.default_rng(seed)
        self.tensors: dict[str, Tensor] = {}
        for name, sizes in SHAPES.items():
            values = np.ones(sizes) if len(sizes) == 1 else 0.4 * rng.standard_normal(sizes)
            data = self.backend.asarray(values.astype(self.backend.dtype))
            self.tensors[name] = Tensor(data, self.backend, requires_grad=True, name=name)

    def trainable(self) -> dict[str, Tensor]:
        return self.tensors

    def loss(self, batch: Batch, scale: float, key: PassKey | None) -> Tensor:
        ids = self.backend.asarray(batch.tokens.reshape(-1), np.int32)
        labels = batch.labels.reshape(-1).astype(np.int32)
        x = embedding.embedding(self.tensors["token_embd.weight"], ids)
        normed = norm.rms_norm(x, self.tensors["attn_norm.weight"])
        hidden = activation.silu(matmul.linear(normed, self.tensors["ffn_up.weight"]))
        hidden = dropout.dropout(hidden, self.dropout, None if key is None else key.for_module("ffn_up"))
        x = shape.reshape(elementwise.add(x, hidden), (-1, WIDTH))
        return loss.linear_cross_entropy(x, self.tensors["output.weight"], labels, scale)

    def values(self) -> dict[str, np.ndarray]:
        return {name: tensor.numpy().copy() for name, tensor in self.tensors.items()}


class Listener:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def losses(self) -> list[float]:
        return [event.loss for event in self.of(Step)]

    def evaluations(self) -> list[Eval]:
        return self.of(Eval)


def counting_data(size: int = 24, seed: int = 1) -> Examples:
    """Documents of 3 to 8 tokens in which each token is mostly the one before plus one; a third of them is prompt."""
    rng = np.random.default_rng(seed)
    store = ExampleStore()
    for _ in range(size):
        n = int(rng.integers(3, 9))
        noise = rng.integers(0, 2, n) * (rng.random(n) < 0.2)
        tokens = (rng.integers(0, VOCAB) + np.arange(n) + noise) % VOCAB
        flags = np.arange(n) >= n // 3
        store.add(tokens.tolist(), bytes(flags.astype(np.uint8)))
    return store.finish(rows=size)


def loader(size: int = 24, *, batch_size: int = 3, seed: int = 1, shuffle: bool = True) -> Loader:
    return Loader(counting_data(size, seed), batch_size=batch_size, seq_len=16, shuffle=shuffle, seed=5)


RECORD = RunRecord(
    config={"optimizer": {"lr": 0.02, "betas": [0.9, 0.999]}, "training": {"max_steps": 20, "seed": 3}},
    inputs={"base model": "b0", "training data": "d0"},
    environment={"numpy": "2.0", "threads": 1},
)


def trainer(folder: Path | None = None, **changes: Any) -> Trainer:
    """A trainer over the tiny model and data; `changes` go to `TrainSettings` or replace arguments of `Trainer`."""
    named = {key: changes.pop(key) for key in list(changes) if key in TrainSettings.__dataclass_fields__}
    settings = TrainSettings(**{"total_steps": 20, "seed": 3, **named})
    learner = changes.pop("learner", None) or TinyModel()
    optimizer: Optimizer = changes.pop("optimizer", None) or AdamW(learner.trainable())
    keep_last = changes.pop("keep_last", 2)
    if folder is not None:
        changes.setdefault("checkpoints", CheckpointStore(folder / CHECKPOINTS, RECORD, keep_last=keep_last))
        changes.setdefault("metrics", MetricsFile(folder / "metrics.jsonl"))
    changes.setdefault("schedule", Schedule("cosine", peak=0.02, total_steps=settings.total_steps, warmup_steps=3))
    changes.setdefault("train", loader())
    return Trainer(learner=learner, optimizer=optimizer, settings=settings, **changes)

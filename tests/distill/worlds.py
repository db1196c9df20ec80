"""Students and teachers in memory, on the reference backend in double precision, with vocabularies to share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.autograd.tape import Tape
from entrenar_core.backend.parameters import DistillationParams
from entrenar_core.data.batch import IGNORE, Batch
from entrenar_core.distill.learner import DistilledModel
from entrenar_core.distill.teachers import Teacher, Teachers
from entrenar_core.distill.vocabulary import SharedVocabulary, TokenMap, share_vocabulary
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.module import PassKey
from tests.model.tiny import build, lively_weights, pack, tiny_spec

KEY = PassKey(seed=1, step=0, micro_batch=0)


def model(seed: int = 0, *, trainable: bool = False, **changes: Any) -> LanguageModel:
    """A lively model; equal seeds give equal weights."""
    options = {name: changes.pop(name) for name in ("checkpoint_activations", "backend") if name in changes}
    spec = tiny_spec(**changes)
    return build(spec, lively_weights(spec, seed), trainable=trainable, **options)


def some_batch() -> Batch:
    """Two rows with three documents, padding, and a prompt that is no target; 17 targets."""
    rng = np.random.default_rng(5)
    documents = [rng.integers(0, 40, length, dtype=np.int32) for length in (8, 5, 10)]
    batch = pack([documents[:2], documents[2:]], 12)
    batch.labels[1, :3] = IGNORE
    return Batch(
        batch.tokens, batch.labels, batch.positions, batch.starts, batch.n_tokens, int((batch.labels >= 0).sum())
    )


def identity(n_rows: int = 40, shared: int | None = None) -> TokenMap:
    """A teacher that has the first `shared` of the student's tokens."""
    known = np.arange(n_rows, dtype=np.int32)
    n_shared = n_rows if shared is None else shared
    return TokenMap("teacher", np.where(known < n_shared, known, -1), np.minimum(known, n_shared - 1), n_rows, n_shared)


def shared(*maps: TokenMap) -> SharedVocabulary:
    return share_vocabulary(maps or [identity()])


def teachers(
    models: Sequence[LanguageModel],
    params: DistillationParams,
    weights: Sequence[float] = (),
    maps: Sequence[TokenMap] = (),
    combine: Any = "mean",
) -> Teachers:
    """Teachers over the same tokens, unless `maps` say otherwise."""
    found = [
        Teacher(f"teacher {number}", one, weight)
        for number, (one, weight) in enumerate(zip(models, weights or [1.0] * len(models), strict=True))
    ]
    return Teachers(found, shared(*(maps or [identity()] * len(models))), params, combine)


def learner(student: LanguageModel, source: Teachers, **options: Any) -> DistilledModel:
    return DistilledModel(student, source, source.vocabulary, source.params, **options)


def loss_and_gradients(
    one: DistilledModel, batch: Batch, scale: float = 1.0, key: PassKey | None = KEY
) -> tuple[float, dict[str, np.ndarray]]:
    """The loss and the gradient of every trainable tensor."""
    for tensor in one.trainable().values():
        tensor.zero_grad()
    with Tape() as tape:
        loss = one.loss(batch, scale, key)
    tape.backward(loss)
    to_host = one.backend.to_host
    return float(loss.data), {name: np.array(to_host(tensor.grad)) for name, tensor in one.trainable().items()}


def log_softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    scaled = logits / temperature
    return scaled - np.logaddexp.reduce(scaled, axis=-1, keepdims=True)


def logits_at_targets(one: LanguageModel, batch: Batch) -> np.ndarray:
    """Logits [M, V] at the supervised positions, from the model's own forward pass."""
    hidden = one.hidden_states(batch.tokens, batch.positions, batch.starts)
    return one.output.forward(hidden, None).numpy().reshape(-1, one.spec.vocab_size)[batch.labels.reshape(-1) >= 0]

"""Tiny models to be measured, and what numpy makes of their logits."""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.reference import ReferenceBackend
from entrenar_core.data.batch import Batch
from entrenar_core.model.decoder import LanguageModel
from tests.model.tiny import build, lively_weights, pack, tiny_spec, tokens_of

REFERENCE = ReferenceBackend(np.float64)
VOCAB_SIZE = 40


def model_of(seed: int = 0, backend: Any = REFERENCE, **changes: Any) -> LanguageModel:
    spec = tiny_spec(**changes)
    return build(spec, lively_weights(spec, seed), backend, trainable=False)


def uniform_model(backend: Any = REFERENCE) -> LanguageModel:
    """Every token is as likely as any other: the output matrix is zero."""
    spec = tiny_spec()
    weights = lively_weights(spec)
    weights["output.weight"][...] = 0
    return build(spec, weights, backend, trainable=False)


def batches_of(*lengths: int, seed: int = 0) -> list[Batch]:
    """One batch a length: two documents of so many positions and one of half as many, and padding."""
    found = []
    for index, length in enumerate(lengths):
        documents = [
            tokens_of(n + 1, seed=seed + 10 * index + part) for part, n in enumerate((length, length, length // 2))
        ]
        found.append(pack([documents[:1], documents[1:]], 2 * length))
    return found


def log_probabilities(model: LanguageModel, batches: list[Batch]) -> tuple[np.ndarray, np.ndarray]:
    """ln p float64 [n, V] at all supervised positions, and the labels [n]; each document is run by itself."""
    rows, labels = [], []
    for batch in batches:
        for row in range(len(batch.tokens)):
            for start in np.unique(batch.starts[row][batch.labels[row] >= 0]):
                part = (batch.starts[row] == start) & (batch.labels[row] >= 0)
                rows.append(model.logits(batch.tokens[row][part][None])[0])
                labels.append(batch.labels[row][part])
    logits = np.concatenate(rows).astype(np.float64)
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.concatenate(labels)

"""A teacher without a network: what it says depends on the token and its position, and not on the batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from entrenar_core.autograd.ops.distillation import DenseChunk
from entrenar_core.data.batch import Batch
from entrenar_core.data.examples import Examples, ExampleStore

VOCABULARY = 40


@dataclass
class FakeTeacher:
    """Log-probabilities of `n_tokens` tokens.

    weighted: whether targets have weights, in a batch where one has. change: of all logits.
    """

    n_tokens: int = VOCABULARY
    weighted: bool = False
    change: Callable[[np.ndarray], np.ndarray] | None = None
    batches: list[Batch] = field(default_factory=list)

    def rows(self, batch: Batch) -> FakeRows:
        self.batches.append(batch)
        rng = np.random.default_rng(3)
        of_token, of_position = rng.normal(0, 2, (2, 512, self.n_tokens))
        is_asked = batch.labels >= 0
        logits = of_token[batch.tokens[is_asked] % 512] + of_position[batch.positions[is_asked]]
        log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        if self.change is not None:
            log_p = self.change(log_p)
        weights = (batch.tokens[is_asked] % 3 > 0).astype(np.float32)
        has_weights = self.weighted and not weights.all()
        return FakeRows(log_p.astype(np.float32), weights if has_weights else None)


@dataclass(frozen=True)
class FakeRows:
    log_p: np.ndarray
    weights: np.ndarray | None

    def chunk(self, part: slice) -> DenseChunk:
        return DenseChunk(self.log_p[part].copy(), None if self.weights is None else self.weights[part])


def stories(count: int = 30, seed: int = 0) -> Examples:
    """Examples of 1 to 30 positions, of which about two thirds are targets."""
    rng, store = np.random.default_rng(seed), ExampleStore()
    for _ in range(count):
        tokens = rng.integers(0, VOCABULARY, rng.integers(2, 32)).tolist()
        flags = (rng.random(len(tokens)) < 2 / 3).astype(np.uint8)
        flags[-1] = 1
        assert store.add(tokens, flags.tobytes())
    return store.finish(rows=count)

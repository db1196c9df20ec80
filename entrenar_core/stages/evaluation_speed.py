"""How fast a model reads and writes here: the best of some short runs, after one that compiles and touches memory."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from entrenar_core.autograd.tape import no_grad
from entrenar_core.backend.base import Backend
from entrenar_core.model.decoder import LanguageModel
from entrenar_core.model.generation import Sampling, generate_batch
from entrenar_core.stages.evaluated_model import EvaluatedModel
from entrenar_core.stages.evaluation_report import Speed

READ_TOKENS = 512
PROMPT_TOKENS, GENERATED_TOKENS = 16, 32
"""Sizes, for models whose context is long enough; llama-bench reads as many."""

REPEATS = 3


def measure_speed(evaluated: EvaluatedModel, backend: Backend) -> Speed:
    """Time a model on random tokens: the language model alone, without a head.

    Raises:
        EntrenarError: the model cannot be loaded or computes numbers that are not finite.
    """
    model = evaluated.load(backend)
    context, vocab_size = model.spec.context_length, evaluated.tokenizer.vocab_size
    n_read = min(READ_TOKENS, context)
    n_prompt = max(1, min(PROMPT_TOKENS, context - GENERATED_TOKENS))
    n_generated = min(GENERATED_TOKENS, context - n_prompt)
    ids = np.random.default_rng(0).integers(0, vocab_size, n_read, dtype=np.int32)

    def read() -> None:
        _read(model, ids)

    def write() -> None:
        _write(model, ids[:n_prompt].tolist(), n_generated, vocab_size)

    def read_prompt() -> None:
        _read(model, ids[:n_prompt])

    generating = _best_seconds(write) - _best_seconds(read_prompt)
    return Speed(n_read / _best_seconds(read), n_generated / max(generating, 1e-9), n_read, n_prompt, n_generated)


def _best_seconds(run: Callable[[], None]) -> float:
    run()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def _read(model: LanguageModel, ids: np.ndarray) -> None:
    """The whole text in one pass, and the logits behind its end."""
    positions = np.arange(len(ids), dtype=np.int32)[None]
    with no_grad():
        hidden = model.hidden_states(ids[None], positions, np.zeros((1, len(ids)), np.int32))
        model.backend.to_host(hidden.data[:, -1:])


def _write(model: LanguageModel, prompt: list[int], count: int, vocab_size: int) -> None:
    generate_batch(model, [prompt], max_tokens=count, sampling=Sampling(), stop_ids=(), vocab_size=vocab_size)

"""Worker: greedy generation of several batch sizes by one engine; prompts are read before the clock starts."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.interleave import serve

BATCHES = (1, 8, 16)
PROMPT, STEPS = 64, 33
"""Tokens of a prompt, and tokens that are generated behind it; the first comes with the prompt and is not timed."""

Generate = Callable[[int], float]
"""Seconds for the timed steps of a batch of so many prompts."""


def prompts(count: int, vocab_size: int) -> list[list[int]]:
    """Random prompts, the same for each engine."""
    return [np.random.default_rng(row).integers(3, vocab_size, PROMPT).tolist() for row in range(count)]


def ours(model: Path, threads: int) -> Generate:
    """Our engine on the mapped file."""
    from entrenar_core.backend.cpu import CpuBackend
    from entrenar_core.gguf.reader import GGUFFile
    from entrenar_core.model.generation import Sampling, next_tokens
    from entrenar_core.model.load import load_mapped

    loaded = load_mapped(GGUFFile.open(model), CpuBackend(threads))
    vocab_size = loaded.spec.vocab_size

    def generate(count: int) -> float:
        tokens = next_tokens(
            loaded,
            prompts(count, vocab_size),
            max_tokens=STEPS,
            sampling=Sampling(),
            stop_ids=(),
            vocab_size=vocab_size,
        )
        for _ in range(count):
            next(tokens)
        started = time.perf_counter()
        for _ in tokens:
            pass
        return time.perf_counter() - started

    return generate


def llama_cpp(model: Path, threads: int) -> Generate:
    """llama.cpp with its defaults: one sequence for each prompt, all of them in one batch."""
    import llama_cpp as library

    silence = library.llama_log_callback(lambda level, text, data: None)
    library.llama_log_set(silence, None)
    library.llama_backend_init()
    loaded = library.llama_model_load_from_file(str(model).encode(), library.llama_model_default_params())
    n_vocab = library.llama_vocab_n_tokens(library.llama_model_get_vocab(loaded))
    options = library.llama_context_default_params()
    options.n_seq_max = max(BATCHES)
    options.n_ctx = options.n_batch = max(BATCHES) * (PROMPT + STEPS)
    options.n_threads = options.n_threads_batch = threads
    context = library.llama_init_from_model(loaded, options)
    batch = library.llama_batch_init(options.n_batch, 0, 1)

    def decode(columns: np.ndarray, first_position: int) -> np.ndarray:
        """Read tokens [B, T]; the likeliest token [B] behind each row."""
        rows, width = columns.shape
        batch.n_tokens = columns.size
        for row in range(rows):
            for place in range(width):
                index = row * width + place
                batch.token[index], batch.pos[index] = int(columns[row, place]), first_position + place
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, row
                batch.logits[index] = place == width - 1
        if library.llama_decode(context, batch):
            raise RuntimeError("llama_decode failed")
        found = []
        for row in range(rows):
            logits = library.llama_get_logits_ith(context, (row + 1) * width - 1)
            found.append(int(np.ctypeslib.as_array(logits, shape=(n_vocab,)).argmax()))
        return np.array(found)

    def generate(count: int) -> float:
        _ = silence  # the library calls it
        library.llama_memory_clear(library.llama_get_memory(context), True)
        chosen = decode(np.array(prompts(count, n_vocab)), 0)
        started = time.perf_counter()
        for step in range(STEPS - 1):
            chosen = decode(chosen[:, None], PROMPT + step)
        return time.perf_counter() - started

    return generate


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=("ours", "llama_cpp"))
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    generate = (ours if options.engine == "ours" else llama_cpp)(options.model, options.threads)

    def step() -> dict[str, Any]:
        seconds = {str(count): generate(count) for count in BATCHES}
        return {"seconds": sum(seconds.values()), "batches": seconds}

    serve(step)


if __name__ == "__main__":
    main()

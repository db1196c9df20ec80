"""Perplexity of a GGUF file on a text, by our engine and by llama.cpp, over the same rows of tokens.

Each row is read from an empty context; every token but the first of a row is predicted.
"""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path

import numpy as np

ROW = 512


def token_rows(model: Path, text: str, rows: int) -> np.ndarray:
    """The first `rows` rows of ROW tokens of a text, int32 [rows, ROW]; fewer if the text is shorter."""
    from entrenar_core.gguf.reader import GGUFFile
    from entrenar_core.tokenizer.build import tokenizer_from_metadata

    with GGUFFile.open(model) as file:
        tokenizer = tokenizer_from_metadata(file.metadata, str(model))
        ids = np.asarray(tokenizer.encode(text, add_special=False), np.int32)
    count = min(rows, len(ids) // ROW)
    return ids[: count * ROW].reshape(count, ROW)


def our_logits(model: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits float32 [rows, ROW, V] by our engine."""
    from entrenar_core.backend.cpu import CpuBackend
    from entrenar_core.gguf.reader import GGUFFile
    from entrenar_core.model.load import load_model

    backend = CpuBackend(2)
    try:
        with GGUFFile.open(model) as file:
            loaded = load_model(file, backend)
            return np.concatenate([loaded.logits(tokens[start : start + 4]) for start in range(0, len(tokens), 4)])
    finally:
        backend.close()


def llama_cpp_logits(model: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits float32 [rows, ROW, V] by llama.cpp, with F32 keys and values."""
    from llama_cpp import GGML_TYPE_F32, Llama

    found = []
    options = {"n_ctx": ROW, "n_batch": ROW, "n_ubatch": ROW, "n_threads": 2, "n_threads_batch": 2}
    with closing(
        Llama(str(model), **options, logits_all=True, type_k=GGML_TYPE_F32, type_v=GGML_TYPE_F32, verbose=False)
    ) as llama:
        for row in tokens:
            llama.reset()
            llama.eval(row.tolist())
            found.append(np.array(llama.scores[:ROW], np.float32))
    return np.stack(found)


def log_probabilities(logits: np.ndarray) -> np.ndarray:
    """log softmax over the last axis, in float32 with a float64 sum."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)).astype(np.float32)


def perplexity(log_p: np.ndarray, tokens: np.ndarray) -> float:
    """exp of the mean of -log p(token), from log probabilities [rows, ROW, V]."""
    picked = np.take_along_axis(log_p[:, :-1], tokens[:, 1:, None].astype(np.int64), axis=-1)
    return math.exp(-float(picked.mean(dtype=np.float64)))


def mean_kl(log_p: np.ndarray, log_q: np.ndarray) -> float:
    """Mean over positions of KL(p ‖ q), in nats."""
    return float((np.exp(log_p) * (log_p - log_q)).sum(axis=-1, dtype=np.float64).mean())

"""What llama-perplexity computes, through llama.cpp's bindings, whose wheel has the library and not the program.

`LlamaCpp` evaluates chunks as the program does with its defaults: several chunks in one batch as sequences of their
own, keys and values in F16, flash attention where it can be had. The figures are the program's formulas over those
logits (llama.cpp, tools/perplexity/perplexity.cpp), in double precision, and share no code with ours.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.llama_quantize import be_silent

BATCH = 2048
MICRO_BATCH = 512


class LlamaCpp:
    """A model in llama.cpp, with a context for as many chunks at a time as fit into a batch.

    Args:
        path: the GGUF file.
        n_ctx: tokens of a chunk.
        threads: of the computation.
        float32_cache: keys and values in F32 without flash attention, instead of the program's defaults.
    """

    def __init__(self, path: Path, n_ctx: int = 512, threads: int = 2, *, float32_cache: bool = False) -> None:
        import llama_cpp

        self.library: Any = llama_cpp
        be_silent()
        llama_cpp.llama_backend_init()
        self.n_ctx = n_ctx
        self.n_seq = max(1, BATCH // n_ctx)
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_model_get_vocab(self.model)
        self.n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        options = llama_cpp.llama_context_default_params()
        options.n_ctx = options.n_batch = self.n_seq * n_ctx
        options.n_ubatch = min(MICRO_BATCH, options.n_batch)
        options.n_seq_max = self.n_seq
        options.n_threads = options.n_threads_batch = threads
        if float32_cache:
            options.type_k = options.type_v = llama_cpp.GGML_TYPE_F32
            options.flash_attn_type = 0
        self.context = llama_cpp.llama_init_from_model(self.model, options)
        self._batch = llama_cpp.llama_batch_init(options.n_batch, 0, 1)

    def close(self) -> None:
        """Give everything back."""
        self.library.llama_batch_free(self._batch)
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)

    def tokenize(self, text: str) -> np.ndarray:
        """int32 [n], with what the model wants in front of a text."""
        raw = text.encode()
        found = (self.library.llama_token * (len(raw) + 8))()
        count = self.library.llama_tokenize(self.vocab, raw, len(raw), found, len(found), True, False)
        return np.array(found[:count], np.int32)

    def scored_logits(self, tokens: np.ndarray, chunks: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """For each chunk the logits [n, V] of the positions that are scored, and the tokens [n] that they predict.

        Both stay as they are until the next chunk is asked for.
        """
        count = len(tokens) // self.n_ctx
        count = count if chunks is None else min(chunks, count)
        for start in range(0, count, self.n_seq):
            rows = tokens[start * self.n_ctx : min(start + self.n_seq, count) * self.n_ctx].reshape(-1, self.n_ctx)
            yield from self._evaluated(rows)

    def _evaluated(self, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        first = self.n_ctx // 2
        batch = self._batch
        batch.n_tokens = rows.size
        for sequence, row in enumerate(rows):
            for position, token in enumerate(row.tolist()):
                index = sequence * self.n_ctx + position
                batch.token[index], batch.pos[index] = token, position
                batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
                batch.logits[index] = position >= first
            if self.library.llama_vocab_get_add_bos(self.vocab):
                batch.token[sequence * self.n_ctx] = self.library.llama_vocab_bos(self.vocab)
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        if self.library.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        for sequence, row in enumerate(rows):
            found = self.library.llama_get_logits_ith(self.context, sequence * self.n_ctx + first)
            pointer = ctypes.cast(found, ctypes.POINTER(ctypes.c_float))
            yield np.ctypeslib.as_array(pointer, (self.n_ctx - first, self.n_vocab))[:-1], row[first + 1 :]


@contextmanager
def llama_cpp_model(path: Path, **options: Any) -> Iterator[LlamaCpp]:
    """A model that is closed at the end."""
    model = LlamaCpp(path, **options)
    try:
        yield model
    finally:
        model.close()


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """float64, over the last axis."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


@dataclass
class Sums:
    """What the program sums up, chunk by chunk: costs of tokens, and divergences from the base where there is one."""

    nll: list[float] = field(default_factory=list)
    base_nll: list[float] = field(default_factory=list)
    kld: list[float] = field(default_factory=list)
    n_same_top: int = 0

    def add(self, logits: np.ndarray, tokens: np.ndarray, base: np.ndarray | None = None) -> None:
        """Logits [n, V] of one chunk, the tokens [n] that come, and the base's log-probabilities [n, V]."""
        log_q, rows = log_softmax(logits), np.arange(len(tokens))
        self.nll += (-log_q[rows, tokens]).tolist()
        if base is not None:
            self.base_nll += (-base[rows, tokens]).tolist()
            self.kld += (np.exp(base) * (base - log_q)).sum(axis=1).tolist()
            self.n_same_top += int((base.argmax(axis=1) == log_q.argmax(axis=1)).sum())

    def perplexity(self) -> tuple[float, float]:
        """PPL and what the program states behind +/-."""
        nll, nll_error = mean_and_uncertainty(self.nll)
        return math.exp(nll), math.exp(nll) * nll_error

    def divergences(self) -> dict[str, float]:
        """Every figure that ``--kl-divergence`` prints, by our name of it; shares are not in percent."""
        (q, q_error), (base, base_error) = mean_and_uncertainty(self.nll), mean_and_uncertainty(self.base_nll)
        count = len(self.nll)
        both = sum(a * b for a, b in zip(self.nll, self.base_nll, strict=True)) / count
        covariance = (both - q * base) / (count - 1)
        ratio_error = math.sqrt(q_error**2 + base_error**2 - 2 * covariance)
        ppl_q, ppl_base = math.exp(q), math.exp(base)
        difference_error = (ppl_q * q_error) ** 2 + (ppl_base * base_error) ** 2 - 2 * ppl_q * ppl_base * covariance
        change = [math.exp(-a) - math.exp(-b) for a, b in zip(self.nll, self.base_nll, strict=True)]
        (kld, kld_error), (p, p_error) = mean_and_uncertainty(self.kld), mean_and_uncertainty(change)
        squares, squares_error = mean_and_uncertainty([each * each for each in change])
        same = self.n_same_top / count
        found = {
            "perplexity": ppl_q,
            "perplexity_error": ppl_q * q_error,
            "reference_perplexity": ppl_base,
            "reference_perplexity_error": ppl_base * base_error,
            "correlation": covariance / (q_error * base_error),
            "log_ratio": q - base,
            "log_ratio_error": ratio_error,
            "ratio": math.exp(q - base),
            "ratio_error": math.exp(q - base) * ratio_error,
            "difference": ppl_q - ppl_base,
            "difference_error": math.sqrt(difference_error),
            "kl": kld,
            "kl_error": kld_error,
            "change": p,
            "change_error": p_error,
            "change_rms": math.sqrt(squares),
            "change_rms_error": 0.5 / math.sqrt(squares) * squares_error,
            "same_top": same,
            "same_top_error": math.sqrt(same * (1 - same) / (count - 1)),
        }
        for share in ("100", "99.9", "99", "95", "90", "50", "10", "5", "1", "0.1", "0"):
            found[f"kl_percentiles.{share}"] = percentile(self.kld, float(share) / 100)
        for share in ("100", "99.9", "99", "95", "90", "75", "50", "25", "10", "5", "1", "0.1", "0"):
            found[f"change_percentiles.{share}"] = percentile(change, float(share) / 100)
        return found


def mean_and_uncertainty(values: list[float]) -> tuple[float, float]:
    """The mean, and √((mean of squares - squared mean)/(n - 1))."""
    mean = math.fsum(values) / len(values)
    square = math.fsum(value * value for value in values) / len(values) - mean * mean
    return mean, math.sqrt(max(square, 0.0) / (len(values) - 1))


def percentile(values: list[float], fraction: float) -> float:
    """Between the two neighbours of fraction·(n - 1) in order, linearly."""
    ordered = sorted(values)
    place = fraction * (len(ordered) - 1)
    index = int(place)
    part = place - index
    return (1 - part) * ordered[index] + part * ordered[min(index + 1, len(ordered) - 1)]

"""Logits of a GGUF file by llama.cpp, and how far ours are from them.

llama.cpp runs with an F32 KV cache and without flash attention, in one batch, so that it computes in float32
throughout.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from llama_cpp import GGML_TYPE_F32, Llama

from entrenar_core.gguf.keys import TOKENIZER_TOKENS
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.tokenizer.train import train_bpe

MAX_KL = 1e-5
MIN_AGREEMENT = 0.999
_THREADS = 2

Entries = list[tuple[str, MetadataValue]]


@dataclass(frozen=True)
class Distance:
    """Mean KL(theirs ‖ ours) over all positions, and the share of positions with the same arg-max."""

    mean_kl: float
    agreement: float
    positions: int
    entropy: float

    def __str__(self) -> str:
        return (
            f"mean KL {self.mean_kl:.2e}, same arg-max on {self.agreement:.2%} of {self.positions} positions"
            f" (mean entropy {self.entropy:.2f} nats)"
        )


def open_llama(model: Path, n_tokens: int, adapter: Path | None = None) -> Any:
    """The file in llama.cpp, to be closed by the caller."""
    return Llama(
        str(model),
        n_ctx=n_tokens,
        n_batch=n_tokens,
        n_ubatch=n_tokens,
        n_threads=_THREADS,
        n_threads_batch=_THREADS,
        logits_all=True,
        flash_attn=False,
        type_k=GGML_TYPE_F32,
        type_v=GGML_TYPE_F32,
        lora_path=None if adapter is None else str(adapter),
        verbose=False,
    )


def llama_cpp_logits(model: Path, tokens: np.ndarray, adapter: Path | None = None) -> np.ndarray:
    """Logits [T, V] of tokens int32 [T], optionally with a LoRA adapter applied."""
    with closing(open_llama(model, len(tokens), adapter)) as llama:
        llama.eval(tokens.tolist())
        return np.array(llama.scores[: len(tokens)], np.float32)


def distance(theirs: np.ndarray, ours: np.ndarray) -> Distance:
    """Between logits [T, V]."""
    log_p, log_q = _log_softmax(theirs), _log_softmax(ours)
    p = np.exp(log_p)
    kl = (p * (log_p - log_q)).sum(axis=-1)
    same = (theirs.argmax(axis=-1) == ours.argmax(axis=-1)).mean()
    return Distance(float(kl.mean()), float(same), len(kl), float(-(p * log_p).sum(axis=-1).mean()))


def assert_same_model(theirs: np.ndarray, ours: np.ndarray) -> Distance:
    """The logits are equal for all that matters, and say something: a flat distribution would agree with anything."""
    result = distance(theirs, ours)
    assert result.entropy < 0.9 * np.log(theirs.shape[1]), str(result)
    assert result.mean_kl < MAX_KL, str(result)
    assert result.agreement >= MIN_AGREEMENT, str(result)
    return result


def small_vocabulary(size: int) -> Entries:
    """Tokenizer metadata with exactly `size` tokens, trained on words that are all different."""
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("aeioulnrst"), 6)) for _ in range(2000)]
    entries = train_bpe([" ".join(words)], size)
    assert len(dict(entries)[TOKENIZER_TOKENS].value) == size
    return entries


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))

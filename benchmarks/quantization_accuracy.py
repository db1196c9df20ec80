"""What few bits cost (ENT-027): perplexity of a real model in every mix, ours beside llama.cpp's quantizer.

The last tenth of a text that the model has seen little of is read in rows of 512 tokens. Both files of a mix are
measured by our engine, which computes in float32, so that only the weights differ; llama.cpp measures ours too (it
quantizes the activations as well). KL is that of the next token's distribution against the F16 model's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.llama_quantize import llama_quantize
from benchmarks.perplexity import (
    llama_cpp_logits,
    log_probabilities,
    mean_kl,
    our_logits,
    perplexity,
    token_rows,
)
from benchmarks.real_data import ABSENT, shared_data

MIXES = (
    "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_1", "q5_0", "q4_k_m", "q4_k_s", "q4_1", "q4_0", "iq4_nl", "iq4_xs",
    "q3_k_l", "q3_k_m", "q3_k_s", "q2_k",
)  # fmt: skip


def run(mixes: Sequence[str] = MIXES, rows: int = 40, model: str = "base-7m-f16.gguf") -> list[str]:
    """A line for each mix."""
    data = shared_data()
    if data is None:
        return [f"quantization_accuracy: {ABSENT}"]
    source = data / "models" / model
    text = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    tokens = token_rows(source, text[-len(text) // 10 :], rows)
    base = log_probabilities(our_logits(source, tokens))
    start = perplexity(base, tokens)
    lines = [
        f"{model}: perplexity {start:.3f} in F16 on {tokens.size} tokens",
        "  mix      bits  ours            KL to F16  llama.cpp's     ours/theirs  ours in llama.cpp (its KL to ours)",
    ]
    with tempfile.TemporaryDirectory(prefix="entrenar-accuracy-") as name:
        lines += [_line(mix, source, tokens, base, start, Path(name)) for mix in mixes]
    return lines


def _line(mix: str, source: Path, tokens: np.ndarray, base: np.ndarray, start: float, folder: Path) -> str:
    ours, theirs = folder / f"ours-{mix}.gguf", folder / f"theirs-{mix}.gguf"
    command = [sys.executable, "-m", "entrenar_cli", "quantize", str(source), "-o", str(ours), "--type", mix, "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    llama_quantize(source, theirs, mix)
    log_p = log_probabilities(our_logits(ours, tokens))
    value, peer = perplexity(log_p, tokens), perplexity(log_probabilities(our_logits(theirs, tokens)), tokens)
    measured = log_probabilities(llama_cpp_logits(ours, tokens))
    line = (
        f"  {mix:7} {bits_per_weight(ours):5.2f}  {value:7.3f} ({value / start - 1:+6.2%})  {mean_kl(base, log_p):9.2e}"
        f"  {peer:7.3f} ({peer / start - 1:+6.2%})  {value / peer - 1:+10.3%}"
        f"  {perplexity(measured, tokens):7.3f} ({perplexity(measured, tokens) / value - 1:+.3%},"
        f" {mean_kl(measured, log_p):.1e})"
    )
    print(line, file=sys.stderr, flush=True)
    ours.unlink()
    theirs.unlink()
    return line


def bits_per_weight(path: Path) -> float:
    """Bits of all tensors over their values."""
    from entrenar_core.gguf.reader import GGUFFile

    with GGUFFile.open(path) as file:
        infos = file.tensors.values()
        return 8 * sum(info.n_bytes for info in infos) / sum(info.n_values for info in infos)

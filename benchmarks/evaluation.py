"""`entrenar eval` beside llama-perplexity: perplexity, divergence and agreement of a real model, and their time.

The figures are those of the same chunks of one text. llama.cpp runs with llama-perplexity's defaults; ours come from
the weights alone (`exact`) and in the arithmetic of llama.cpp's CPU kernels. Times are those of the perplexity of some
chunks, the two engines in turn, each from a model that is loaded; on one thread each and in seconds of the processor,
for llama.cpp's threads wait for each other in a spin, which on a busy machine takes most of their time.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.llama_perplexity import Sums, llama_cpp_model, log_softmax
from benchmarks.real_data import ABSENT, shared_data

CONTEXT = 512
TIMED_CHUNKS = 16
TIMED_ROUNDS = 5
MIXES = ("f16", "q8_0", "q4_0", "q4_k_m")

Figures = dict[str, float]


def run(chunks: int | None = None, rounds: int = TIMED_ROUNDS, model: str = "base-7m-f16.gguf") -> list[str]:
    """A line for each mix and measure, and one for the times of each mix."""
    data = shared_data()
    if data is None:
        return [f"evaluation: {ABSENT}"]
    base = data / "models" / model
    text = (data / "tinyshakespeare.txt").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="entrenar-evaluation-") as name:
        paths = {mix: base if mix == "f16" else _quantized(base, Path(name), mix) for mix in MIXES}
        lines = [
            f"{model} in {chunks or 'all'} chunks of {CONTEXT} tokens of tinyshakespeare.txt; reference: F16",
            "  mix     measure      llama.cpp     exact                 llama.cpp's arithmetic",
        ]
        for mix, path in paths.items():
            lines += _figure_lines(mix, path, base, text, chunks)
        lines += [
            f"processor seconds for the perplexity of {TIMED_CHUNKS} chunks on one thread, medians of {rounds} rounds:"
        ]
        lines += [_time_line(mix, path, text, rounds) for mix, path in paths.items()]
    return lines


def _quantized(source: Path, folder: Path, mix: str) -> Path:
    target = folder / f"{mix}.gguf"
    command = [sys.executable, "-m", "entrenar_cli", "quantize", str(source), "-o", str(target), "--type", mix]
    subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL)
    return target


def _figure_lines(mix: str, path: Path, base: Path, text: str, chunks: int | None) -> list[str]:
    expected = _their_figures(path, base, text, chunks)
    exact, rounded = (_our_figures(path, base, text, chunks, arithmetic=each) for each in (False, True))
    lines = []
    for name in ("perplexity", "kl", "same_top"):
        ours = "  ".join(f"{each[name]:12.6g} {_relative(each[name], expected[name])}" for each in (exact, rounded))
        lines.append(f"  {mix:7} {name:10} {expected[name]:12.6g}  {ours}")
        print(lines[-1], file=sys.stderr, flush=True)
    return lines


def _relative(value: float, expected: float) -> str:
    return f"{value / expected - 1:+8.3%}" if expected else " " * 8


def _their_figures(path: Path, base: Path, text: str, chunks: int | None) -> Figures:
    """By llama.cpp, on one thread: threads that wait for each other in a spin make no figure, only heat."""
    sums = Sums()
    with llama_cpp_model(path, threads=1) as model, llama_cpp_model(base, threads=1) as reference:
        tokens = model.tokenize(text)
        pairs = zip(model.scored_logits(tokens, chunks), reference.scored_logits(tokens, chunks), strict=True)
        for (logits, labels), (base_logits, _) in pairs:
            sums.add(logits, labels, log_softmax(base_logits))
    return sums.divergences() if path != base else {"perplexity": sums.perplexity()[0], "kl": 0.0, "same_top": 1.0}


def _our_figures(path: Path, base: Path, text: str, chunks: int | None, *, arithmetic: bool) -> Figures:
    from entrenar_core.evaluation.arithmetic import llama_cpp_arithmetic
    from entrenar_core.evaluation.divergence import divergence

    with _loaded(path) as (model, windows), _loaded(base) as (reference, _), ExitStack() as stack:
        for each in (model, reference) if arithmetic else ():
            stack.enter_context(llama_cpp_arithmetic(each))
        found = divergence(model, reference, windows(text, chunks).batches())
    return {"perplexity": found.cost.value, "kl": found.kl.value, "same_top": found.same_top.value}


@contextmanager
def _loaded(path: Path, threads: int | None = None) -> Iterator[tuple[Any, Callable[[str, int | None], Any]]]:
    """The model by our engine, and what cuts a text into llama.cpp's windows for it."""
    from entrenar_core.backend.cpu import CpuBackend
    from entrenar_core.evaluation.windows import llama_cpp_windows
    from entrenar_core.gguf.reader import GGUFFile
    from entrenar_core.model.load import load_mapped
    from entrenar_core.tokenizer.build import tokenizer_from_metadata

    def windows(text: str, chunks: int | None) -> Any:
        ids = np.asarray(tokenizer.encode(text, add_special=True), np.int32)
        bos_id = tokenizer.bos_id if tokenizer.add_bos else None
        found = llama_cpp_windows(ids, CONTEXT, bos_id=bos_id)
        return found if chunks is None else found.first(chunks)

    backend = CpuBackend(threads)
    try:
        with GGUFFile.open(path) as file:
            tokenizer = tokenizer_from_metadata(file.metadata, str(path))
            yield load_mapped(file, backend), windows
    finally:
        backend.close()


def _time_line(mix: str, path: Path, text: str, rounds: int) -> str:
    """Medians; a first round of each is not counted."""
    from entrenar_core.evaluation.arithmetic import llama_cpp_arithmetic
    from entrenar_core.evaluation.likelihood import perplexity

    with llama_cpp_model(path, threads=1) as llama, _loaded(path, threads=1) as (model, windows):
        tokens = llama.tokenize(text)
        found = windows(text, TIMED_CHUNKS)

        def theirs() -> None:
            sums = Sums()
            for logits, labels in llama.scored_logits(tokens, TIMED_CHUNKS):
                sums.add(logits[:1], labels[:1])

        def exact() -> None:
            perplexity(model, found.batches())

        def rounded() -> None:
            with llama_cpp_arithmetic(model):
                perplexity(model, found.batches())

        seconds: dict[str, list[float]] = {"theirs": [], "exact": [], "rounded": []}
        for _ in range(rounds + 1):
            for name, work in (("theirs", theirs), ("exact", exact), ("rounded", rounded)):
                started = time.process_time()
                work()
                seconds[name].append(time.process_time() - started)
    peer, ours, like = (statistics.median(each[1:]) for each in seconds.values())
    ratios = f"exact {ours:6.2f} ({ours / peer:.2f}x)  llama.cpp's arithmetic {like:6.2f} ({like / peer:.2f}x)"
    line = f"  {mix:7} llama.cpp {peer:6.2f}  {ratios}"
    print(line, file=sys.stderr, flush=True)
    return line

"""How soon the command answers, and how soon a GGUF with a large vocabulary is open, beside gguf-py."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.real_data import ABSENT, shared_data

HELP_LIMIT, OPEN_LIMIT = 0.25, 0.3
RUNS = 10


def cpu_seconds(command: Sequence[str]) -> float:
    """User and system time of one process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise RuntimeError(f"{command} ended with {status}")
    return usage.ru_utime + usage.ru_stime


def best_seconds(action: Callable[[], object], runs: int) -> float:
    """The fastest of several calls."""
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def open_vocabulary(path: Path) -> int:
    """Open with our reader and read every token."""
    from entrenar_core.gguf.reader import GGUFFile

    with GGUFFile.open(path) as file:
        tokens = file.metadata["tokenizer.ggml.tokens"]
        return len(tokens)  # type: ignore[arg-type]


def run() -> list[str]:
    """Two figures with their limits."""
    command = [str(Path(sys.executable).with_name("entrenar")), "--help"]
    seconds = min(cpu_seconds(command) for _ in range(RUNS))
    lines = [f"entrenar --help: {seconds:.3f} s of CPU, best of {RUNS} (limit {HELP_LIMIT})"]
    data = shared_data()
    if data is None:
        return [*lines, f"opening a vocabulary: {ABSENT}"]
    path = data / "vocabs" / "ggml-vocab-llama-bpe.gguf"
    ours = best_seconds(lambda: open_vocabulary(path), 5)
    import gguf

    theirs = best_seconds(lambda: gguf.GGUFReader(path), 1)
    lines.append(
        f"a GGUF with 128k tokens: {ours:.3f} s with all tokens read (limit {OPEN_LIMIT}),"
        f" gguf-py {theirs:.2f} s, {theirs / ours:.0f}x"
    )
    return lines

"""`entrenar quantize` beside llama.cpp's quantizer: whole commands on a 2.2 GB F16 file of TinyLlama-1.1B's shape.

Both run in turn with two threads, see `contestant`. llama.cpp is called through llama-cpp-python. First the files lie
on a memory file system, where the work is measured; then on disk, where both end with an fsync of the output.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.contestant import DISK_FILES, MEMORY_FILES, Contestant, interleave
from benchmarks.random_gguf import write_random_gguf
from benchmarks.shapes import TL1B

THREADS = 2
ROUNDS = 5
DISK_ROUNDS = 3
GOALS = {"q4_0": 3.0, "q8_0": 3.0, "q4_k_m": 8.0}
"""How many times as fast as llama.cpp each type is meant to be, files in memory."""

MEMORY_GOAL = 512 << 20


def run() -> list[str]:
    """One line for each type and place of the files."""
    lines = [f"quantize_file: {TL1B.name} F16 (2.2 GB), {THREADS} threads, whole commands, medians"]
    for folder, rounds, where in ((MEMORY_FILES, ROUNDS, "memory"), (DISK_FILES, DISK_ROUNDS, "disk, fsync")):
        with model_file(folder) as source:
            for kind, goal in GOALS.items():
                ours, theirs = contestants(source, kind, sync=folder is DISK_FILES)
                interleave((ours, theirs), rounds)
                lines.append(_line(kind, where, ours, theirs, goal if folder is MEMORY_FILES else None))
                print(lines[-1], file=sys.stderr, flush=True)
    return lines


@contextmanager
def model_file(folder: Path) -> Iterator[Path]:
    """The 2.2 GB file in a folder; it and everything beside it are gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="entrenar-quantize-", dir=folder) as name:
        path = Path(name) / "model.gguf"
        write_random_gguf(path, TL1B, (f"the quick brown fox jumps over dog {number}" for number in range(2000)))
        yield path


def contestants(source: Path, kind: str, *, sync: bool) -> tuple[Contestant, Contestant]:
    """Ours and llama.cpp's command for one type."""
    ours, theirs = source.with_name("ours.gguf"), source.with_name("theirs.gguf")
    options = [str(source), str(theirs), kind, str(THREADS), *(["sync"] if sync else [])]
    entrenar = [sys.executable, "-m", "entrenar_cli", "quantize", str(source), "-o", str(ours), "--type", kind]
    return (
        Contestant([*entrenar, "--threads", str(THREADS)], ours),
        Contestant([sys.executable, "-m", "benchmarks.llama_quantize", *options], theirs),
    )


def _line(kind: str, where: str, ours: Contestant, theirs: Contestant, goal: float | None) -> str:
    ratio = theirs.median / ours.median
    wanted = "" if goal is None else f" (goal {goal:g}x)"
    memory, other = ours.peak_bytes >> 20, theirs.peak_bytes >> 20
    return (
        f"  {kind:<7} {where:<12} ours {ours.median:.2f} s, llama.cpp {theirs.median:.2f} s: {ratio:.2f}x{wanted};"
        f" private memory {memory} MiB (goal {MEMORY_GOAL >> 20}), llama.cpp {other} MiB"
    )


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print("\n".join(run()))

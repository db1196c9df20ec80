"""`entrenar quantize` beside llama.cpp's quantizer: whole commands on a 2.2 GB F16 file of TinyLlama-1.1B's shape.

Both run in turn, each time in a process of its own, with two threads; so their start counts too. llama.cpp is called
through llama-cpp-python. First the files lie on a memory file system, where the work is measured; then on disk, where
both end with an fsync of the output. Peak memory is the largest anonymous part of the process (mapped pages are the
file's), looked at every 5 ms.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.random_gguf import write_random_gguf
from benchmarks.shapes import TL1B

MEMORY_FILES = Path("/dev/shm")
DISK_FILES = Path("/var/tmp")
THREADS = 2
ROUNDS = 5
DISK_ROUNDS = 3
GOALS = {"q4_0": 3.0, "q8_0": 3.0, "q4_k_m": 8.0}
"""How many times as fast as llama.cpp each type is meant to be, files in memory."""

MEMORY_GOAL = 512 << 20
_POLL_SECONDS = 0.005


@dataclass
class Contestant:
    """One command, and what its runs took."""

    command: Sequence[str]
    output: Path
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def run(self, *, counts: bool) -> None:
        """Run the command to its end; the output is removed before and after."""
        self.output.unlink(missing_ok=True)
        with tempfile.TemporaryFile() as log:
            started = time.perf_counter()
            process = subprocess.Popen(self.command, stdout=log, stderr=subprocess.STDOUT)
            peak = 0
            while process.poll() is None:
                peak = max(peak, _anonymous_bytes(process.pid))
                time.sleep(_POLL_SECONDS)
            seconds = time.perf_counter() - started
            if process.returncode:
                log.seek(0)
                raise RuntimeError(f"{self.command[:4]}: {log.read().decode(errors='replace')[-2000:]}")
        self.output.unlink()
        if counts:
            self.seconds.append(seconds)
            self.peak_bytes = max(self.peak_bytes, peak)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def run() -> list[str]:
    """One line for each type and place of the files."""
    lines = [f"quantize_file: {TL1B.name} F16 (2.2 GB), {THREADS} threads, whole commands, medians"]
    for folder, rounds, where in ((MEMORY_FILES, ROUNDS, "memory"), (DISK_FILES, DISK_ROUNDS, "disk, fsync")):
        with model_file(folder) as source:
            for kind, goal in GOALS.items():
                ours, theirs = contestants(source, kind, sync=folder is DISK_FILES)
                interleave(ours, theirs, rounds)
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


def interleave(ours: Contestant, theirs: Contestant, rounds: int) -> None:
    """Ours, theirs, ours ...; the first run of each compiles kernels and warms files, and does not count."""
    for number in range(rounds + 1):
        for one in (ours, theirs):
            one.run(counts=number > 0)


def _line(kind: str, where: str, ours: Contestant, theirs: Contestant, goal: float | None) -> str:
    ratio = theirs.median / ours.median
    wanted = "" if goal is None else f" (goal {goal:g}x)"
    memory, other = ours.peak_bytes >> 20, theirs.peak_bytes >> 20
    return (
        f"  {kind:<7} {where:<12} ours {ours.median:.2f} s, llama.cpp {theirs.median:.2f} s: {ratio:.2f}x{wanted};"
        f" private memory {memory} MiB (goal {MEMORY_GOAL >> 20}), llama.cpp {other} MiB"
    )


def _anonymous_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    print("\n".join(run()))

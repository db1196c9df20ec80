"""How much of a memory budget is taken before any buffer is made: by the program and its libraries."""

from __future__ import annotations

from pathlib import Path

from entrenar_core.errors import ConfigError
from entrenar_core.events import Notice, Reporter
from entrenar_core.train.memory import peak_memory_bytes

MEMORY_MARGIN = 32 << 20
"""Kept free of buffers, for what the interpreter and the libraries allocate while they work."""

PROGRAM_BYTES = 128 << 20
"""More than the program with its libraries takes (75 MiB). What a process holds beyond that is not for this work: that
of a caller from Python, or pages that a calibration has left."""


def memory_taken(budget: int) -> int:
    """Bytes of a budget that are not left for buffers.

    Raises:
        ConfigError: nothing would be left.
    """
    taken = min(private_bytes(), PROGRAM_BYTES) + MEMORY_MARGIN
    if taken >= budget:
        raise ConfigError(
            f"{_size(budget)} are too little: the program itself takes {taken // 2**20} MiB",
            where="run.memory",
            hint="leave --memory out, or raise it",
        )
    return taken


def say_fewer_threads(workers: int, threads: int, reporter: Reporter) -> None:
    """Report that the memory has no room for all threads."""
    if workers < threads:
        reporter.emit(Notice("warning", f"the memory is enough for {workers} of {threads} threads"))


def private_bytes() -> int:
    """Memory that belongs to this process alone; where the system does not say, all that it has ever held."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return peak_memory_bytes()
    found = next((line.split()[1] for line in lines if line.startswith("RssAnon:")), None)
    return peak_memory_bytes() if found is None else int(found) * 1024


def _size(n_bytes: int) -> str:
    return f"{n_bytes // 2**20} MiB" if n_bytes >= 2**20 else f"{n_bytes} bytes"

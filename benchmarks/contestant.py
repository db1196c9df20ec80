"""Whole commands that do the same work, run in turn, each in a process of its own, so that their start counts too.

Peak memory is the largest anonymous part of the process (mapped pages are the file's), looked at every 5 ms.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

MEMORY_FILES = Path("/dev/shm")
DISK_FILES = Path("/var/tmp")
_POLL_SECONDS = 0.005


@dataclass
class Contestant:
    """One command, and what its runs took."""

    command: Sequence[str]
    output: Path
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    def run(self, *, counts: bool) -> None:
        """Run the command to its end; the output is removed before and after.

        Raises:
            RuntimeError: the command failed; the message has the end of what it said.
        """
        _remove(self.output)
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
        _remove(self.output)
        if counts:
            self.seconds.append(seconds)
            self.peak_bytes = max(self.peak_bytes, peak)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def interleave(contestants: Sequence[Contestant], rounds: int) -> None:
    """A, B, A, B ...; the first run of each compiles kernels and warms files, and does not count."""
    for number in range(rounds + 1):
        for one in contestants:
            one.run(counts=number > 0)


def _remove(output: Path) -> None:
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)


def _anonymous_bytes(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:")), 0)

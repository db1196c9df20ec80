"""Runs workers in turn, one step at a time, each in its own process: A B A B ..., so that drift hits all alike.

A worker is a module that prepares, prints ``ready``, and then for each line on stdin does one unit of work and prints a
JSON object with at least ``seconds``. While one works the others wait on a pipe.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Worker:
    """One contestant: a module and its arguments."""

    name: str
    module: str
    arguments: Sequence[str] = ()
    threads: int = 2
    results: list[dict[str, Any]] = field(default_factory=list)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the process and wait until it is prepared."""
        count = str(self.threads)
        environment = {**os.environ, "OMP_NUM_THREADS": count, "TOKENIZERS_PARALLELISM": "false"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", self.module, *self.arguments, "--threads", count],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        while (line := self._read()) != "ready":
            print(f"  [{self.name}] {line}", file=sys.stderr)

    def step(self) -> dict[str, Any]:
        """Do one unit of work."""
        if self.process is None or self.process.stdin is None:
            raise RuntimeError(f"{self.name} was not started")
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        result: dict[str, Any] = json.loads(self._read())
        self.results.append(result)
        return result

    def stop(self) -> None:
        """End the process; it sees the end of its input."""
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
            self.process.wait(timeout=60)

    def private_bytes(self) -> int:
        """Proportional memory of the process now (PSS)."""
        if self.process is None:
            return 0
        lines = Path(f"/proc/{self.process.pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))

    def median_seconds(self) -> float:
        """The median over the counted steps."""
        return statistics.median(result["seconds"] for result in self.results)

    def _read(self) -> str:
        if self.process is None or self.process.stdout is None:
            raise RuntimeError(f"{self.name} was not started")
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"worker {self.name} ended with {self.process.wait()}")
        return line.strip()


def run_interleaved(workers: Sequence[Worker], *, rounds: int, warmup: int) -> None:
    """Start all, warm each up, then let each do `rounds` counted steps in turn."""
    for worker in workers:
        worker.start()
    for counted in [False] * warmup + [True] * rounds:
        for worker in workers:
            worker.step()
            if not counted:
                worker.results.clear()


def serve(step: Callable[[], dict[str, Any]]) -> None:
    """The worker's side: print ready, then one result for each line read."""
    print("ready", flush=True)
    for _ in sys.stdin:
        print(json.dumps(step()), flush=True)


def medians_in_turn(rounds: int, *contestants: Callable[[], object]) -> list[float]:
    """Median seconds of each of some calls in this process, made in turn; a first round warms up."""
    seconds: list[list[float]] = [[] for _ in contestants]
    for counted in [False] + [True] * rounds:
        for contestant, found in zip(contestants, seconds, strict=True):
            started = time.perf_counter()
            contestant()
            if counted:
                found.append(time.perf_counter() - started)
    return [statistics.median(found) for found in seconds]

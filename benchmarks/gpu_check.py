"""`python -m benchmarks.gpu_check --out FOLDER`: is everything right on this GPU, and how fast is it?

Three parts: every kernel and whole models against the CPU; single kernels against what the card can do; training steps
against torch + transformers + peft. It keeps to its time, needs no network and nothing but the project and one of its
CUDA extras; peers that are not installed are named. Status 1: something was wrong. Status 2: there is no GPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.budget import Budget
from benchmarks.gpu.cases import run_cases
from benchmarks.gpu.child import Message
from benchmarks.gpu.machine import ask_machine
from benchmarks.gpu.report import (
    FAILED,
    NOT_MEASURED,
    Line,
    correctness_line,
    lines_of_cases,
    micro_line,
    render,
    say,
    write_json,
)

SECONDS = 450
"""Of a whole run; it ends within eight minutes even if the last thing it measures takes longer than thought."""

SHARES = {"correctness": 30.0, "micro": 12.0, "throughput": 58.0}
"""Of the parts, in the order in which they run."""

NO_GPU = 2


@dataclass(frozen=True)
class Run:
    """What all parts get: the folder for results and logs, and the facts of the machine."""

    out: Path
    machine: Message

    @property
    def log(self) -> Path:
        return self.out / "gpu_check.log"


def correctness(run: Run, seconds: float) -> Message:
    """Part 1: each check in turn."""
    from benchmarks.gpu.correctness import CHECKS

    return run_cases("benchmarks.gpu.correctness", list(CHECKS), seconds, run.log).message()


def micro(run: Run, seconds: float) -> Message:
    """Part 2: single kernels."""
    from benchmarks.gpu.micro import NAMES

    return run_cases("benchmarks.gpu.micro", NAMES, seconds, run.log).message()


PARTS = {"correctness": correctness, "micro": micro}
LINES = {"correctness": correctness_line, "micro": micro_line}
TITLES = {
    "correctness": "correctness: largest error, relative",
    "micro": "kernels",
    "throughput": "training steps",
}


def lines_of(results: Message) -> Iterator[Line]:
    """The whole table."""
    for part, outcome in results["parts"].items():
        yield from lines_of_cases(TITLES[part], outcome, LINES[part])


def failures(lines: Sequence[Line]) -> list[str]:
    """What was wrong, and made the run fail."""
    return [line.what for line in lines if line.verdict == FAILED]


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="for results and logs")
    parser.add_argument("--part", choices=list(PARTS), help="this one alone")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"of the whole run (default {SECONDS})")
    return parser.parse_args()


def main() -> int:
    """The exit status."""
    chosen = options()
    chosen.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    parts = [chosen.part] if chosen.part else list(PARTS)
    budget = Budget(chosen.seconds, {part: SHARES[part] for part in parts})
    machine = ask_machine(chosen.out / "gpu_check.log")
    if "none" in machine:
        say(f"gpu_check: there is no GPU to check: {machine['none']}")
        return NO_GPU
    run, results = Run(chosen.out, machine), {"machine": machine, "parts": {}}
    for part in parts:
        seconds = budget.begin(part)
        say(f"gpu_check: {part}, {seconds:.0f} s")
        results["parts"][part] = PARTS[part](run, seconds)
        write_json(run.out / "gpu_check.json", results)
    lines = list(lines_of(results))
    results["seconds"] = time.monotonic() - started
    results["failures"] = failures(lines)
    results["not_measured"] = [line.what for line in lines if line.verdict == NOT_MEASURED]
    write_json(run.out / "gpu_check.json", results)
    title = f"gpu_check on {machine['gpu']}, {results['seconds']:.0f} s"
    render(title, lines, sys.stdout)
    with (run.out / "gpu_check.txt").open("w", encoding="utf-8") as stream:
        render(title, lines, stream)
    return bool(results["failures"])


if __name__ == "__main__":
    sys.exit(main())

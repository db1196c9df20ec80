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
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.budget import Budget, Deadline
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

SECONDS = 440
"""Of a whole run; it ends within eight minutes even if the last thing it measures takes longer than thought."""

SHARES = {"correctness": 34.0, "micro": 12.0, "throughput": 54.0}
"""Of the parts, in the order in which they run."""

NO_GPU = 2


@dataclass(frozen=True)
class Run:
    """What all parts get: the folder for results and logs, the facts of the machine, and what was found so far."""

    out: Path
    machine: Message
    parts: dict[str, Message] = field(default_factory=dict)

    @property
    def log(self) -> Path:
        return self.out / "gpu_check.log"

    def matrix_rate(self) -> float | None:
        """FLOP/s of the large product, if it was measured."""
        return rate_in(self.parts["micro"]) if "micro" in self.parts else None


def correctness(run: Run, seconds: float) -> Message:
    """Part 1: each check in turn."""
    from benchmarks.gpu.correctness import CHECKS

    return run_cases("benchmarks.gpu.correctness", list(CHECKS), seconds, run.log).message()


def micro(run: Run, seconds: float) -> Message:
    """Part 2: single kernels."""
    from benchmarks.gpu.micro import NAMES

    return run_cases("benchmarks.gpu.micro", NAMES, seconds, run.log).message()


def throughput(run: Run, seconds: float) -> Message:
    """Part 3: training steps beside the peer's."""
    from benchmarks.gpu import throughput as races

    deadline = Deadline(seconds)
    rate = run.matrix_rate() or measured_matrix_rate(run, seconds)
    who = races.Field("benchmarks.gpu.ours", races.missing_package, races.installed_attentions(), run.log)
    contests = []
    for message in races.race_all(who, run.machine["memory_bytes"], deadline):
        say(f"gpu_check: {message['title']}: {deadline.left:.0f} s left")
        contests.append(message)
    return {"matrix_rate": rate, "contests": contests}


def measured_matrix_rate(run: Run, seconds: float) -> float | None:
    """FLOP/s of the large product, where it was not measured before."""
    found = run_cases("benchmarks.gpu.micro", ["limits"], seconds / 4, run.log).message()
    return rate_in(found)


def rate_in(micro_results: Message) -> float | None:
    """FLOP/s of the large product among the figures of single kernels."""
    found = [one["value"] for one in micro_results["found"] if one["name"] == "matrix product"]
    return found[0] * 1e12 if found else None


PARTS = {"correctness": correctness, "micro": micro, "throughput": throughput}
TITLES = {
    "correctness": "correctness: largest error, relative",
    "micro": "kernels",
    "throughput": "training steps",
}


def lines_of(results: Message) -> Iterator[Line]:
    """The whole table."""
    from benchmarks.gpu.throughput import contest_lines

    parts = results["parts"]
    for part, line_of in (("correctness", correctness_line), ("micro", micro_line)):
        if part in parts:
            yield from lines_of_cases(TITLES[part], parts[part], line_of)
    if "throughput" in parts:
        for contest in parts["throughput"]["contests"]:
            yield from contest_lines(TITLES["throughput"], contest, parts["throughput"]["matrix_rate"])


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
    run = Run(chosen.out, machine)
    results: Message = {"machine": machine, "parts": run.parts}
    for part in parts:
        seconds = budget.begin(part)
        say(f"gpu_check: {part}, {seconds:.0f} s")
        run.parts[part] = PARTS[part](run, seconds)
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

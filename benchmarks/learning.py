"""Real input: how far `entrenar train` lowers the validation loss, against torch + transformers + peft.

Both start from the same weights and see the same batches in the same order, with the same AdamW, schedule, clipping and
number of steps, in fp32. Ours is the installed command; the model it writes is evaluated in torch as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.command import read_metrics, train_command
from benchmarks.learning_cases import CASES, Case
from benchmarks.real_data import ABSENT, shared_data

GOAL = 0.95
"""Our drop of the validation loss is to be at least this share of theirs."""


@dataclass(frozen=True)
class Outcome:
    """Validation losses in nats a token, and the largest difference between the training losses of a step."""

    case: Case
    steps: int
    start_ours: float
    start_torch: float
    end_ours: float
    end_torch: float
    written: float
    deviation: float
    deviating_step: int

    @property
    def drop_ratio(self) -> float:
        """Our drop of the loss as a share of theirs."""
        return (self.start_ours - self.end_ours) / (self.start_torch - self.end_torch)


def run(names: Sequence[str] = (), steps: int | None = None) -> list[str]:
    """One table: a row for each case whose name holds one of `names` (default: all), with its own number of steps."""
    data = shared_data()
    if data is None:
        return [f"learning: {ABSENT}"]
    chosen = [case for case in CASES if not names or any(name in case.name for name in names)]
    with tempfile.TemporaryDirectory(prefix="entrenar-learning-") as scratch:
        outcomes = [compare(case, data, Path(scratch), steps or case.steps) for case in chosen]
    return table(outcomes)


def compare(case: Case, data: Path, scratch: Path, steps: int) -> Outcome:
    """Run both sides of one case."""
    config = case.configure(data, scratch, steps)
    output = Path(config["training"]["output_dir"])
    watched = train_command(config, scratch, name=output.name)
    print(f"  [{case.name}] ours {watched.seconds:.0f} s", file=sys.stderr, flush=True)
    ours = [line["loss"] for line in read_metrics(output, "step")]
    theirs = _run_torch(scratch / f"{output.name}.yaml", output / "model.gguf")
    deviations = [abs(a - b) for a, b in zip(ours, theirs["losses"], strict=True)]
    largest = max(deviations)
    return Outcome(
        case=case,
        steps=len(ours),
        start_ours=theirs["start_ours"],
        start_torch=theirs["start"],
        end_ours=read_metrics(output, "eval")[-1]["loss"],
        end_torch=theirs["end"],
        written=theirs["written"],
        deviation=largest,
        deviating_step=deviations.index(largest) + 1,
    )


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The lines to print."""
    lines = [
        "Validation loss of `entrenar train` against torch + transformers + peft; same start, batches, optimizer; fp32",
        f"  {'run':26} {'steps':>5} {'start':>9} {'ours':>9} {'torch':>9} {'written':>9} {'drop':>7}"
        "  largest difference of a step's training loss",
    ]
    for one in outcomes:
        verdict = "" if one.drop_ratio >= GOAL else f"  BELOW THE GOAL OF {GOAL:.0%}"
        lines.append(
            f"  {one.case.name:26} {one.steps:5} {one.start_torch:9.5f} {one.end_ours:9.5f} {one.end_torch:9.5f}"
            f" {one.written:9.5f} {one.drop_ratio:7.2%}  {one.deviation:.1e} in step {one.deviating_step},"
            f" starts differ by {abs(one.start_ours - one.start_torch):.1e}{verdict}"
        )
    lines.append("  written: the model.gguf of ours, evaluated in torch; drop: ours as a share of torch's")
    return lines


def _run_torch(config: Path, written: Path) -> dict[str, Any]:
    arguments = [sys.executable, "-m", "benchmarks.learning_torch", str(config), "--written", str(written)]
    # Spinning threads are slow by a factor of ten where something else uses the cores; speed is not compared here.
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(arguments, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found

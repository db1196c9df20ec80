"""Runs the command line as a person does: in its own process, looked at from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from entrenar_core.train.metrics import WALL_CLOCK

COMMAND = (sys.executable, "-m", "entrenar_cli")
TIMEOUT = 120
MACHINE: Mapping[str, str] = {"NO_COLOR": "1", "COLUMNS": "200"}
"""A terminal's width and colours must not decide what a test sees."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str

    def events(self) -> list[dict[str, Any]]:
        """The lines of ``--json``."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment() -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    return {**os.environ, **MACHINE, "PYTHONPATH": path}


def entrenar(*arguments: str | Path, cwd: Path | None = None, **options: Any) -> Outcome:
    """Run a command to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
        **options,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Begin a command; its stderr can be read when it has ended."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content; None for folders."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def metrics(run: Path, ignored: Sequence[str] = WALL_CLOCK) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what differs from run to run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ignored} for line in lines]

"""Runs the command line as a person does: in its own process, looked at from outside.

Where many calls are made and only their answers matter, `call` runs them in this process and saves its start.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from entrenar_cli.main import main
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

    def document(self) -> dict[str, Any]:
        """The only line of ``--json``."""
        (content,) = self.events()
        return content


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


def call(*arguments: str | Path, cwd: Path | None = None) -> Outcome:
    """The same answer from this process; what it changes in the environment does not outlive it."""
    out, err = StringIO(), StringIO()
    with chdir(cwd or Path.cwd()), patch.dict(os.environ, MACHINE), redirect_stdout(out), redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    return Outcome(code, out.getvalue(), err.getvalue())


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    """Begin a command; its stderr can be read when it has ended."""
    return subprocess.Popen(
        [*COMMAND, *map(str, arguments)],
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def assert_interrupt_leaves_nothing(number: signal.Signals, words: str, folder: Path, *arguments: str) -> None:
    """Send a signal to a command while it writes its output into `folder`: it says so, and all is as it was."""
    before = tree(folder)
    with subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + TIMEOUT
        while not any(path.name.endswith(".partial") for path in folder.iterdir()):
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number, said
    assert said.endswith(words)
    assert "Traceback" not in said
    assert tree(folder) == before


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path below a folder with its content; None for folders."""
    paths = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in paths}


def metrics(run: Path, ignored: Sequence[str] = WALL_CLOCK) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` without what differs from run to run."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ignored} for line in lines]

"""Runs `entrenar` as a person does, in a process of its own, and watches how much memory it takes.

Resident memory counts the mapped pages of a model file too; the anonymous part of it is what the process really holds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLL_SECONDS = 0.05


class CommandFailed(RuntimeError):
    """The command did not do its work; the message has the end of what it said."""


@dataclass(frozen=True)
class Watched:
    """What a finished command took.

    Memory in bytes: the largest resident set, its largest anonymous part, and the largest proportional set (PSS), in
    which a mapped page counts as a share for each process that maps it.
    """

    seconds: float
    peak_resident: int
    peak_anonymous: int
    peak_proportional: int = 0


def train_command(config: Mapping[str, Any], folder: Path, *, name: str, keep_free: int = 0) -> Watched:
    """`entrenar train` on `config`, which is written to `folder` as YAML (JSON is a part of it).

    Args:
        config: sections of the YAML file.
        folder: for the file and for what the command says (`<name>.log`).
        name: of the file.
        keep_free: the command is ended when the machine has less memory left than these bytes.

    Raises:
        CommandFailed: the command failed, or the machine ran out of memory.
    """
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps(config), encoding="utf-8")
    return watch(
        [sys.executable, "-m", "entrenar_cli", "train", str(path)], folder / f"{name}.log", keep_free=keep_free
    )


def watch(arguments: Sequence[str], log: Path, *, keep_free: int = 0) -> Watched:
    """Run a command to its end; see `train_command`."""
    started = time.perf_counter()
    resident = anonymous = proportional = 0
    ended_early = False
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    with (
        log.open("w", encoding="utf-8") as output,
        subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, env=environment) as process,
    ):
        while process.poll() is None:
            now = _kilobytes(Path(f"/proc/{process.pid}/status"), "VmHWM:", "RssAnon:")
            resident, anonymous = max(resident, now[0]), max(anonymous, now[1])
            proportional = max(proportional, *_kilobytes(Path(f"/proc/{process.pid}/smaps_rollup"), "Pss:"))
            if keep_free and _kilobytes(Path("/proc/meminfo"), "MemAvailable:")[0] < keep_free:
                ended_early = True
                process.kill()
                break
            time.sleep(_POLL_SECONDS)
    seconds = time.perf_counter() - started
    if ended_early:
        raise CommandFailed(
            f"ended after {seconds:.0f} s at {resident / 2**30:.1f} GiB: the machine has no more memory"
        )
    if process.returncode:
        raise CommandFailed(f"exit code {process.returncode}: {log.read_text(errors='replace')[-2000:]}")
    return Watched(seconds, resident, anonymous, proportional)


def read_metrics(run: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of a run's metrics that are steps (`step`) or evaluations (`eval`)."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line["event"] == kind]


def _kilobytes(path: Path, *keys: str) -> list[int]:
    """The values of `keys` in a file of /proc, in bytes; 0 where the process has just ended."""
    try:
        found = dict(line.split(maxsplit=1) for line in path.read_text().splitlines() if line.startswith(keys))
    except OSError:
        return [0] * len(keys)
    return [int(found.get(key, "0").split()[0]) * 1024 for key in keys]

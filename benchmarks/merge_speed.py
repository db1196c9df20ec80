"""`entrenar merge` beside mergekit: a base and two fine-tunes of TinyLlama-1.1B's shape in F16 (2.2 GB each).

Whole commands with two threads, see `contestant`. First GGUF files on a memory file system, where the goals hold; then
the same on disk, where the command ends with an fsync of the output. mergekit reads no GGUF, so the same weights are
written as Hugging Face folders, on the memory file system if there is room for them beside mergekit; it runs once,
since it takes minutes, and ours runs on those folders too. Takes 20 minutes, 20 GB of memory and 9 GB of disk.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestant import DISK_FILES, MEMORY_FILES, Contestant, interleave
from benchmarks.mergekit_environment import VERSION, installed_python, mergekit_command
from benchmarks.random_gguf import write_random_gguf
from benchmarks.shapes import TL1B

THREADS = 2
ROUNDS = 3
MEMORY_GOAL = 10**9
MERGEKIT_NEEDS = 9 * 10**9
"""Bytes that mergekit and its output take beside the inputs."""

MODELS = ("base", "one", "two")


@dataclass(frozen=True)
class Merge:
    """A method with its settings, ours and mergekit's, and the seconds that it is meant to take, files in memory."""

    method: str
    goal: float
    options: Sequence[str]
    parameters: Mapping[str, Any]
    model_parameters: Mapping[str, Any]

    def command(self, folder: Path, suffix: str, output: Path) -> list[str]:
        """Ours, for the models of a folder."""
        base, one, two = (str(folder / f"{name}{suffix}") for name in MODELS)
        models = [base, one] if self.method == "slerp" else [one, two]
        entrenar = [sys.executable, "-m", "entrenar_cli", "merge", *models, "--base", base, "--method", self.method]
        return [*entrenar, *self.options, "--threads", str(THREADS), "-o", str(output)]

    def mergekit_config(self, folder: Path) -> dict[str, Any]:
        """The same for mergekit, in the type of the files."""
        names = ("base", "one") if self.method == "slerp" else ("one", "two")
        return {
            "merge_method": self.method,
            "base_model": str(folder / "base"),
            "models": [{"model": str(folder / name), "parameters": dict(self.model_parameters)} for name in names],
            "parameters": dict(self.parameters),
            "dtype": "float16",
        }


MERGES = (
    Merge("ties", 12.0, ("--weight", "0.5", "--density", "0.2"), {}, {"weight": 0.5, "density": 0.2}),
    Merge("dare_ties", 10.0, ("--weight", "0.5", "--density", "0.5"), {}, {"weight": 0.5, "density": 0.5}),
    Merge("slerp", 6.0, ("--t", "0.4"), {"t": 0.4}, {}),
)


def run(rounds: int = ROUNDS) -> list[str]:
    """A line for each method and place of the files, and for each method mergekit's."""
    installed_python()
    lines = [f"merge_speed: {TL1B.name}, base and 2 models in F16, {THREADS} threads, whole commands, medians"]
    with (
        tempfile.TemporaryDirectory(prefix="entrenar-merge-", dir=MEMORY_FILES) as in_memory,
        tempfile.TemporaryDirectory(prefix="entrenar-merge-", dir=DISK_FILES) as on_disk,
    ):
        memory, disk = Path(in_memory), Path(on_disk)
        write_models(memory)
        measured = [_measured(merge, memory, ".gguf", rounds) for merge in MERGES]
        _say(lines, [_line(merge, "memory", one, merge.goal) for merge, one in zip(MERGES, measured, strict=True)])
        for name in MODELS:
            shutil.copyfile(memory / f"{name}.gguf", disk / f"{name}.gguf")
        os.sync()
        for merge in MERGES:
            _say(lines, [_line(merge, "disk, fsync", _measured(merge, disk, ".gguf", rounds))])
        folder = write_folders(memory, disk)
        where = "memory" if folder == memory else "disk"
        for merge, gguf in zip(MERGES, measured, strict=True):
            _say(lines, [_beside_mergekit(merge, folder, where, gguf, rounds)])
    return lines


def write_models(folder: Path) -> None:
    """The base and two fine-tunes, ``NAME.gguf``."""
    texts = [f"the quick brown fox jumps over dog {number}" for number in range(2000)]
    for number, name in enumerate(MODELS):
        write_random_gguf(folder / f"{name}.gguf", TL1B, texts, change_seed=number or None)


def write_folders(memory: Path, disk: Path) -> Path:
    """The models of `disk` as Hugging Face folders, in `memory` if mergekit has room beside them; returns which.

    The GGUF files of both are removed on the way.
    """
    size = sum((disk / f"{name}.gguf").stat().st_size for name in MODELS)
    for name in MODELS:
        (memory / f"{name}.gguf").unlink()
    target = memory if _available_bytes() > size + MERGEKIT_NEEDS else disk
    for name in MODELS:
        source = disk / f"{name}.gguf"
        command = [sys.executable, "-m", "entrenar_cli", "merge", str(source), "--method", "passthrough"]
        subprocess.run(
            [*command, "--format", "safetensors", "-o", str(target / name)], check=True, stdout=subprocess.DEVNULL
        )
        source.unlink()
    return target


def _measured(merge: Merge, folder: Path, suffix: str, rounds: int) -> Contestant:
    output = folder / "ours.gguf"
    ours = Contestant(merge.command(folder, suffix, output), output)
    interleave([ours], rounds)
    return ours


def _beside_mergekit(merge: Merge, folder: Path, where: str, gguf: Contestant, rounds: int) -> str:
    """mergekit once and ours on the same folders; the ratio to ours on GGUF files in memory beside it."""
    ours = _measured(merge, folder, "", rounds)
    config, output = folder / "mergekit.yaml", folder / "theirs"
    config.write_text(json.dumps(merge.mergekit_config(folder)), encoding="utf-8")
    theirs = Contestant(mergekit_command(config, output, ["--num-threads", str(THREADS)]), output)
    theirs.run(counts=True)
    return (
        f"  {merge.method:<10} folders in {where}: mergekit {VERSION} {theirs.median:.1f} s,"
        f" {theirs.peak_bytes >> 20} MiB; ours {ours.median:.2f} s, {ours.peak_bytes >> 20} MiB:"
        f" {theirs.median / ours.median:.1f}x; with GGUF files {theirs.median / gguf.median:.1f}x"
    )


def _line(merge: Merge, where: str, ours: Contestant, goal: float | None = None) -> str:
    wanted = "" if goal is None else f" (goal {goal:g})"
    memory = f"{ours.peak_bytes / 1e6:.0f} MB (goal {MEMORY_GOAL // 10**6})"
    return f"  {merge.method:<10} {where:<12} {ours.median:.2f} s{wanted}; private memory {memory}"


def _say(lines: list[str], more: Sequence[str]) -> None:
    lines += more
    print("\n".join(more), file=sys.stderr, flush=True)


def _available_bytes() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


if __name__ == "__main__":
    print("\n".join(run()))

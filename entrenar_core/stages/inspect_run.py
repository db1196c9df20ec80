"""What a checkpoint or the folder of a run holds, and whether training can go on from it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from entrenar_core.errors import EntrenarError, FormatError
from entrenar_core.stages.output_dir import METRICS, REPORT, RESOLVED, RESULTS
from entrenar_core.train.checkpoint import MANIFEST, Checkpoint, read_checkpoint, step_of_folder
from entrenar_core.train.checkpoint_store import CHECKPOINTS

SUMMARY_KEYS = (
    "model.path",
    "data.train",
    "data.batch_size",
    "data.seq_len",
    "optimizer.name",
    "optimizer.lr",
    "lora.rank",
    "lora.alpha",
    "quantize.type",
    "training.epochs",
    "training.max_steps",
    "training.seed",
)
"""The keys of a config that say most about a run."""


@dataclass(frozen=True)
class TensorFacts:
    """One trained tensor."""

    name: str
    shape: tuple[int, ...]
    type: str


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint. `problem`: why it cannot be used, or None; the rest is then what could be read."""

    kind: str
    path: str
    n_bytes: int
    problem: str | None
    step: int | None
    epoch: int | None = None
    tokens: int | None = None
    train_loss: float | None = None
    val_loss: float | None = None
    best_val_loss: float | None = None
    best_step: int | None = None
    tensors: tuple[TensorFacts, ...] = ()
    trained_values: int = 0
    config: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class FileFacts:
    """A file of a run and its size."""

    name: str
    n_bytes: int


@dataclass(frozen=True)
class RunFacts:
    """The folder of a run. `resumable_from`: the newest whole checkpoint; `problems`: what is broken in it."""

    kind: str
    path: str
    n_bytes: int
    files: tuple[FileFacts, ...]
    checkpoints: tuple[int, ...]
    steps: int
    train_loss: float | None
    val_loss: float | None
    best_val_loss: float | None
    best_step: int | None
    is_finished: bool
    resumable_from: int | None
    problems: tuple[str, ...]


def inspect_checkpoint(path: Path) -> CheckpointFacts:
    """Compare a checkpoint with its manifest and read what it says; a broken one is described too."""
    try:
        checkpoint = read_checkpoint(path)
    except FormatError as error:
        return _broken(path, str(error.message) if error.where is None else f"{error.where}: {error.message}")
    state = checkpoint.state
    tensors = _tensors(checkpoint)
    return CheckpointFacts(
        kind="checkpoint",
        path=str(path),
        n_bytes=_folder_bytes(path),
        problem=None,
        step=state.step,
        epoch=state.epoch,
        tokens=state.tokens,
        train_loss=state.train_loss,
        val_loss=state.val_loss,
        best_val_loss=state.best_val_loss,
        best_step=state.best_step,
        tensors=tensors,
        trained_values=sum(math.prod(tensor.shape) for tensor in tensors),
        config=config_summary(checkpoint.record.config),
        environment={key: str(value) for key, value in checkpoint.record.environment.items()},
    )


def inspect_run(path: Path) -> RunFacts:
    """Look at the folder that `entrenar train` writes."""
    steps, evals = _metrics(path / METRICS)
    best = _lowest_loss(evals)
    folders = _checkpoints(path / CHECKPOINTS)
    resumable, problems = _newest_whole(folders)
    files = _files(path)
    return RunFacts(
        kind="run",
        path=str(path),
        n_bytes=_folder_bytes(path),
        files=files,
        checkpoints=tuple(step for step, _ in folders),
        steps=_last(steps, "step") or 0,
        train_loss=_last(steps, "loss"),
        val_loss=_last(evals, "loss"),
        best_val_loss=best.get("loss"),
        best_step=best.get("step"),
        is_finished=any(file.name in RESULTS for file in files),
        resumable_from=resumable,
        problems=tuple(problems),
    )


def is_checkpoint(path: Path) -> bool:
    """A folder with the name of a checkpoint, or with a manifest in it."""
    return path.is_dir() and ((path / MANIFEST).is_file() or step_of_folder(path) is not None)


def is_run(path: Path) -> bool:
    """A folder with something that only a run leaves."""
    return any((path / name).exists() for name in (METRICS, RESOLVED, CHECKPOINTS))


def config_summary(config: Mapping[str, Any]) -> dict[str, str]:
    """The keys of `SUMMARY_KEYS` that a resolved config has."""
    found = {}
    for key in SUMMARY_KEYS:
        section, name = key.split(".")
        value = (config.get(section) or {}).get(name)
        if value is not None:
            found[key] = ", ".join(_source_name(one) for one in value) if isinstance(value, list) else str(value)
    return found


def _source_name(value: object) -> str:
    return str(value.get("path")) if isinstance(value, Mapping) else str(value)


def _broken(path: Path, problem: str) -> CheckpointFacts:
    return CheckpointFacts("checkpoint", str(path), _folder_bytes(path), problem, step_of_folder(path))


def _tensors(checkpoint: Checkpoint) -> tuple[TensorFacts, ...]:
    arrays = checkpoint.parameters()
    return tuple(TensorFacts(name, array.shape, str(array.dtype)) for name, array in sorted(arrays.items()))


def _newest_whole(folders: list[tuple[int, Path]]) -> tuple[int | None, list[str]]:
    problems = []
    for step, folder in reversed(folders):
        try:
            read_checkpoint(folder)
        except EntrenarError as error:
            problems.append(f"checkpoint {folder.name} cannot be used: {error.message}")
        else:
            return step, problems
    return None, problems


def _files(path: Path) -> tuple[FileFacts, ...]:
    found = (path / name for name in (*RESULTS, REPORT, METRICS, RESOLVED))
    return tuple(FileFacts(file.name, file.stat().st_size) for file in found if file.is_file())


def _metrics(path: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The steps and the evaluations in metrics.jsonl; a torn line is passed over."""
    found: dict[str, list[dict[str, Any]]] = {"step": [], "eval": []}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and event.get("event") in ("step", "eval"):
            found[event["event"]].append(event)
    return found["step"], found["eval"]


def _lowest_loss(evals: list[dict[str, Any]]) -> dict[str, Any]:
    with_loss = [event for event in evals if _is_number(event.get("loss"))]
    return min(with_loss, key=lambda event: event["loss"], default={})


def _last(events: list[dict[str, Any]], key: str) -> Any:
    value = events[-1].get(key) if events else None
    return value if _is_number(value) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checkpoints(path: Path) -> list[tuple[int, Path]]:
    """Step and folder of everything that looks like a checkpoint, in the order of steps."""
    if not path.is_dir():
        return []
    return sorted((step, found) for found in path.iterdir() if (step := step_of_folder(found)) is not None)


def _folder_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())

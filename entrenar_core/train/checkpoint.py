"""A checkpoint on disk: a folder ``step-000123`` with two safetensors files and a manifest that vouches for them.

``model.safetensors`` holds the trainable tensors only, ``optimizer.safetensors`` the optimizer's arrays, and
``state.json`` the training state, the configuration, the environment, and size and SHA-256 of the other two. The folder
gets its name when all of it is on disk; a folder that is not whole is refused when it is read.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from entrenar_core.errors import FormatError, OutputError
from entrenar_core.train.durable import TEMPORARY, file_sha256, sync
from entrenar_core.train.state import TrainState

FORMAT = "entrenar-checkpoint"
FORMAT_VERSION = 1
MODEL, OPTIMIZER, MANIFEST = "model.safetensors", "optimizer.safetensors", "state.json"

_FOLDER = re.compile(r"step-(\d{6,})")
_KEYS = {"format": str, "version": int, "state": dict, "run": dict, "files": dict}


@dataclass(frozen=True)
class RunRecord:
    """What a run was made from; two runs with equal records compute the same bits.

    Attributes:
        config: the resolved configuration as plain JSON values.
        inputs: a hash for each thing that is read: the base model, the data sets.
        environment: see `environment.describe_environment`.
    """

    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    environment: Mapping[str, Any]

    def config_hash(self) -> str:
        """SHA-256 of the configuration, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(self.config, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its files have been compared with the manifest."""

    path: Path
    state: TrainState
    record: RunRecord

    def parameters(self) -> dict[str, np.ndarray]:
        """The trainable tensors by name."""
        return _load(self.path / MODEL)

    def optimizer_state(self) -> dict[str, np.ndarray]:
        """What `Optimizer.load_state` takes."""
        return _load(self.path / OPTIMIZER)


def folder_name(step: int) -> str:
    return f"step-{step:06d}"


def step_of_folder(path: Path) -> int | None:
    """The step of a folder with a checkpoint's name; None for any other."""
    match = _FOLDER.fullmatch(path.name)
    return int(match[1]) if match and path.is_dir() else None


def write_checkpoint(
    folder: Path,
    state: TrainState,
    record: RunRecord,
    parameters: Mapping[str, np.ndarray],
    optimizer_state: Mapping[str, np.ndarray],
) -> Path:
    """Write the checkpoint of `state` below `folder` and return its path.

    Raises:
        OutputError: it cannot be written, or a checkpoint of that step is there already.
    """
    target = folder / folder_name(state.step)
    temporary = folder / (TEMPORARY + target.name)
    if target.exists():
        raise OutputError("a checkpoint of this step exists already", where=str(target), hint="use another output_dir")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(temporary, state, record, parameters, optimizer_state)
        temporary.rename(target)
        sync(folder)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"a checkpoint cannot be written: {reason}", where=str(target)) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return target


def _write_files(
    folder: Path,
    state: TrainState,
    record: RunRecord,
    parameters: Mapping[str, np.ndarray],
    optimizer_state: Mapping[str, np.ndarray],
) -> None:
    files: dict[str, dict[str, int | str]] = {}
    for name, arrays in ((MODEL, parameters), (OPTIMIZER, optimizer_state)):
        path = folder / name
        save_file({key: np.asarray(array, order="C") for key, array in arrays.items()}, path)
        sync(path)
        files[name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    manifest = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "state": state.to_json(),
        "run": {
            "config": record.config,
            "config_hash": record.config_hash(),
            "inputs": record.inputs,
            "environment": record.environment,
        },
        "files": files,
    }
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    sync(folder)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a manifest and compare the files with it.

    Raises:
        FormatError: no such folder, no checkpoint, a version from the future, or files that are torn or changed.
    """
    manifest = _read_manifest(path / MANIFEST)
    for name in (MODEL, OPTIMIZER):
        _compare(path / name, manifest["files"].get(name))
    run = manifest["run"]
    parts = [run.get(key) for key in ("config", "inputs", "environment")]
    if not all(isinstance(part, dict) for part in parts):
        raise FormatError("the record of the run is incomplete", where=str(path / MANIFEST))
    return Checkpoint(path, TrainState.from_json(manifest["state"], str(path / MANIFEST)), RunRecord(*parts))


def _read_manifest(path: Path) -> dict[str, Any]:
    where = str(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise FormatError("there is no checkpoint here", where=str(path.parent)) from error
    except (OSError, ValueError) as error:
        raise FormatError(f"cannot be read: {error}", where=where) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise FormatError("is not the manifest of a checkpoint", where=where)
    if content.get("version") != FORMAT_VERSION:
        raise FormatError(f"has version {content.get('version')!r}; this release reads {FORMAT_VERSION}", where=where)
    for key, kind in _KEYS.items():
        if not isinstance(content.get(key), kind):
            raise FormatError(f"key {key!r} is missing or of the wrong type", where=where)
    return content


def _compare(path: Path, promised: object) -> None:
    if not isinstance(promised, dict) or not path.is_file():
        raise FormatError("the file is missing", where=str(path))
    n_bytes = path.stat().st_size
    if n_bytes != promised.get("bytes"):
        raise FormatError(f"has {n_bytes} bytes instead of {promised.get('bytes')}", where=str(path))
    if file_sha256(path) != promised.get("sha256"):
        raise FormatError("its content is not what was written", where=str(path))


def _load(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise FormatError(f"cannot be read: {error}", where=str(path)) from error

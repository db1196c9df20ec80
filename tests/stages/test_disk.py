"""The estimate of the disk is held against the files that a run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from entrenar_core.config.optimizer import Optimizer as OptimizerConfig
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.disk import DiskRequest, estimate_disk, optimizer_arrays
from entrenar_core.train.checkpoint_store import CHECKPOINTS
from tests.stages.tiny_base import train


def folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def request_for(folder: Path, **changes: Any) -> DiskRequest:
    """What the run of `tests.stages.tiny_base.train` leaves."""
    with GGUFFile.open(folder / "run" / "adapter.gguf") as file:
        trained = {name: info.shape for name, info in file.tensors.items()}
    with GGUFFile.open(folder / "base.gguf") as file:
        types = {name: (info.shape, info.type_name) for name, info in file.tensors.items()}
        weights = sum(info.n_bytes for info in file.tensors.values())
    settings: dict[str, Any] = {
        "trained": trained,
        "optimizer": OptimizerConfig(),
        "output_dir": folder / "run",
        "checkpoints": 1,
        "model_types": types,
        "model_header": (folder / "base.gguf").stat().st_size - weights,
        "adapter_type": "F32",
        "lines": 3,
        **changes,
    }
    return DiskRequest(**settings)


def test_each_file_of_a_run_is_estimated(folder: Path) -> None:
    train(folder)
    run = folder / "run"
    parts = dict(estimate_disk(request_for(folder)).parts)
    assert parts["model.gguf"] == pytest.approx((run / "model.gguf").stat().st_size, rel=0.1)
    assert parts["adapter.gguf"] == pytest.approx((run / "adapter.gguf").stat().st_size, rel=0.15)
    assert parts["metrics.jsonl"] == pytest.approx((run / "metrics.jsonl").stat().st_size, rel=0.5)
    assert parts["checkpoints (up to 1)"] == pytest.approx(folder_bytes(run / CHECKPOINTS), rel=0.15)


def test_the_whole_run_fits_into_the_estimate(folder: Path) -> None:
    train(folder)
    assert folder_bytes(folder / "run") <= 1.02 * estimate_disk(request_for(folder)).total


@pytest.mark.parametrize(
    ("settings", "arrays"),
    [
        ({"name": "adamw"}, 2),
        ({"name": "adam"}, 2),
        ({"name": "sgd"}, 0),
        ({"name": "sgd", "momentum": 0.9}, 1),
    ],
    ids=["adamw", "adam", "sgd", "momentum"],
)
def test_a_checkpoint_has_the_state_of_the_optimizer(settings: dict[str, Any], arrays: int) -> None:
    assert optimizer_arrays(OptimizerConfig(**settings)) == arrays


def test_more_checkpoints_take_more(folder: Path) -> None:
    train(folder)
    one, three = (estimate_disk(request_for(folder, checkpoints=count)).parts[0][1] for count in (1, 3))
    assert three == 3 * one


def test_what_is_not_written_is_not_counted(folder: Path) -> None:
    train(folder)
    names = [name for name, _ in estimate_disk(request_for(folder, model_types={}, adapter_type=None)).parts]
    assert names == ["checkpoints (up to 1)", "metrics.jsonl"]

"""`--device` of the commands that run a model, where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cuda_host.fake_driver import remove_cupy
from tests.e2e.command import call
from tests.stages.tiny_base import write_base, write_config, write_data

COMMANDS = {
    "train": ("train", "config.yaml", "--set", "training.device=cuda"),
    "generate": ("generate", "base.gguf", "--prompt", "Ada", "--device", "cuda"),
    "eval": ("eval", "base.gguf", "--data", "train.parquet", "--device", "cuda"),
    "calibrate": ("calibrate", "base.gguf", "train.parquet", "--device", "cuda"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    remove_cupy(monkeypatch)
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    write_config(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", COMMANDS)
def test_a_gpu_that_is_not_there_is_one_message_with_the_command_that_helps(folder: Path, command: str) -> None:
    done = call(*COMMANDS[command], cwd=folder)
    assert done.code == 2 and done.out == ""
    said = " ".join(done.err.split())
    assert "computing on a GPU needs CuPy, which is not installed" in said
    assert "pip install 'entrenar[cuda13]'" in said
    assert not (folder / "run").exists() and not (folder / "imatrix.gguf").exists()


def test_the_cpu_can_be_asked_for(folder: Path) -> None:
    wanted = ("generate", "base.gguf", "--prompt", "Ada", "--max-tokens", "2", "--temperature", "0")
    assert call(*wanted, "--device", "cpu", cwd=folder) == call(*wanted, cwd=folder)


def test_an_unknown_device_is_refused_with_those_that_there_are(folder: Path) -> None:
    done = call("generate", "base.gguf", "--prompt", "Ada", "--device", "gpu", cwd=folder)
    assert done.code == 2 and "'auto', 'cpu', 'cuda'" in " ".join(done.err.split())

"""A disk that is full costs no work: the message says what is missing, and the run can be finished later."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.command import entrenar, tree
from tests.stages.tiny_base import write_base, write_config, write_data

MODEL_BYTES = 100_000
"""Below the size of the model (158 kB), above that of everything else a run writes."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    write_config(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_a_model_that_cannot_be_written_whole_is_not_there_and_can_be_written_later(folder: Path) -> None:
    limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (MODEL_BYTES, MODEL_BYTES))
    done = entrenar("train", "config.yaml", cwd=folder, preexec_fn=limit)
    assert done.code == 2
    assert "model.gguf: the file cannot be written: File too large" in done.err
    assert "run the same command with --resume" in done.err
    assert not [name for name in tree(folder / "run") if "gguf" in name]
    assert entrenar("train", "config.yaml", "--resume", cwd=folder).code == 0
    assert (folder / "run" / "model.gguf").stat().st_size > MODEL_BYTES


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of 128 kB."""
    place = tmp_path_factory.mktemp("disk")
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "none", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("only root can mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_disk_too_small_for_the_model_is_seen_before_it_is_written(folder: Path, small_disk: Path) -> None:
    done = entrenar("train", "config.yaml", "--output-dir", small_disk / "run", cwd=folder)
    assert done.code == 2
    assert "the file needs" in done.err
    assert "--resume" in done.err
    assert "Traceback" not in done.err
    assert not [name for name in tree(small_disk) if "gguf" in name]


@pytest.mark.slow
def test_a_disk_too_small_for_a_checkpoint(folder: Path, small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes(shutil.disk_usage(small_disk).free - 24_000))
    done = entrenar("train", "config.yaml", "--output-dir", small_disk / "run", cwd=folder)
    assert done.code == 2
    assert "a checkpoint cannot be written" in done.err
    assert "No space left on device" in done.err
    assert "Traceback" not in done.err
    assert list((small_disk / "run" / "checkpoints").iterdir()) == []

"""A run that is killed at any moment and resumed leaves the bytes of a run that nothing happened to."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.command import entrenar, metrics, start
from tests.stages.tiny_base import write_base, write_config, write_data

STEPS = 60
RUNS: dict[str, dict[str, Any]] = {
    "lora": {
        "data": {"packing": True, "batch_size": 1, "seq_len": 40, "val": None},
        "lora": {"dropout": 0.2},
        "optimizer": {"schedule": "cosine", "warmup": 5},
        "training": {"grad_accum": 2, "max_steps": STEPS, "save_every": 2, "eval_every": 7},
    },
    "full": {
        "lora": None,
        "optimizer": {"name": "adamw", "weight_decay": 0.1},
        "training": {"max_steps": STEPS, "save_every": 3, "eval_every": 10, "activation_checkpointing": True},
    },
}
RESULTS = {"lora": ["adapter.gguf", "model.gguf"], "full": ["model.gguf"]}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base model and data."""
    folder = tmp_path_factory.mktemp("inputs")
    write_base(folder / "base.gguf", type_name="F16")
    shutil.copy(write_data(folder), folder / "val.parquet")
    return folder


@pytest.fixture(scope="module", params=sorted(RUNS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def config(inputs: Path, kind: str) -> Path:
    sections = dict(RUNS[kind])
    sections["data"] = {**sections.get("data", {}), "val": str(inputs / "val.parquet")}
    return write_config(inputs, **sections).rename(inputs / f"{kind}.yaml")


@pytest.fixture(scope="module")
def undisturbed(config: Path, inputs: Path, kind: str) -> Path:
    """The folder of a run that nothing happened to."""
    folder = inputs / f"{kind}-undisturbed"
    done = entrenar("train", config, "--output-dir", folder)
    assert done.code == 0, done.err
    return folder


def resume(config: Path, run: Path) -> None:
    done = entrenar("train", config, "--resume", "--output-dir", run)
    assert done.code == 0, done.err


def assert_equal_runs(run: Path, undisturbed: Path, kind: str) -> None:
    for name in RESULTS[kind]:
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert metrics(run) == metrics(undisturbed)
    assert sorted(path.name for path in run.iterdir()) == sorted(path.name for path in undisturbed.iterdir())
    steps = [sorted(path.name for path in (folder / "checkpoints").iterdir()) for folder in (run, undisturbed)]
    assert steps[0] == steps[1]


def kill_when(
    process: subprocess.Popen[str], is_time: Callable[[], bool], *, delay: float = 0.0, is_certain: bool = False
) -> bool:
    """Kill -9 `delay` seconds after `is_time`; with `is_certain` only if it still is once the process is frozen.

    False if it ended before that.
    """
    while process.poll() is None:
        if not is_time():
            time.sleep(0.0001 if is_certain else 0.001)
            continue
        if is_certain:
            process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
            if not is_time():
                process.send_signal(signal.SIGCONT)
                continue
        time.sleep(delay)
        process.kill()
    return process.wait() == -signal.SIGKILL


def steps_logged(run: Path) -> int:
    path = run / "metrics.jsonl"
    return path.read_bytes().count(b'"event": "step"') if path.exists() else 0


def steps_are_logged(run: Path, at_least: int) -> bool:
    return steps_logged(run) >= at_least


def names(folder: Path) -> list[str]:
    return os.listdir(folder) if folder.is_dir() else []


def checkpoint_is_being_written(run: Path) -> bool:
    return any(name.startswith(".tmp-step") for name in names(run / "checkpoints"))


def model_is_being_written(run: Path) -> bool:
    return any(name.startswith(".model.gguf.") for name in names(run))


@pytest.fixture
def run(inputs: Path, kind: str) -> Iterator[Path]:
    folder = inputs / f"{kind}-disturbed"
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_killed_again_and_again(config: Path, undisturbed: Path, run: Path, kind: str) -> None:
    """At random moments, while a checkpoint is written, and while the model is written."""
    moments = random.Random(kind)
    kills: list[tuple[Callable[[], bool], float, bool]] = [
        (partial(steps_are_logged, run, 5), moments.uniform(0, 0.02), False),
        (lambda: steps_logged(run) > 8 and checkpoint_is_being_written(run), 0.0, True),
        (partial(steps_are_logged, run, moments.randint(30, 50)), moments.uniform(0, 0.02), False),
    ]
    for is_time, delay, is_certain in kills:
        process = start("train", config, "--output-dir", run, *(["--resume"] if steps_logged(run) else []))
        assert kill_when(process, is_time, delay=delay, is_certain=is_certain)
    while not kill_when(
        start("train", config, "--output-dir", run, "--resume"), partial(model_is_being_written, run), is_certain=True
    ):
        (run / "model.gguf").unlink()  # it was written in a moment; resuming goes straight there again
    assert model_is_being_written(run), "half of a model is there, under another name"
    assert not (run / "model.gguf").exists()
    resume(config, run)
    assert_equal_runs(run, undisturbed, kind)


@pytest.mark.slow
def test_a_polite_signal_leaves_a_checkpoint(config: Path, undisturbed: Path, run: Path, kind: str) -> None:
    number = {"lora": signal.SIGINT, "full": signal.SIGTERM}[kind]
    process = start("train", config, "--output-dir", run)
    while steps_logged(run) < 5:
        assert process.poll() is None
    process.send_signal(number)
    assert process.wait(timeout=60) == 128 + number, "130 for Ctrl-C"
    assert process.stderr is not None
    said = process.stderr.read()
    assert f"interrupted: stopped by {number.name} after step" in said
    assert "--resume" in said
    assert "Traceback" not in said
    stopped_at = steps_logged(run)
    assert f"step-{stopped_at:06d}" in names(run / "checkpoints")
    resume(config, run)
    for name in RESULTS[kind]:
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert metrics(run) == metrics(undisturbed)


@pytest.mark.parametrize("kind", ["lora"], indirect=True)
def test_a_torn_checkpoint_is_passed_over(config: Path, undisturbed: Path, run: Path, kind: str) -> None:
    process = start("train", config, "--output-dir", run)
    assert kill_when(process, partial(steps_are_logged, run, 20))
    newest = max((run / "checkpoints").glob("step-*"))
    file = newest / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with (run / "metrics.jsonl").open("a") as stream:
        stream.write('{"event": "step", "st')
    done = entrenar("train", config, "--resume", "--output-dir", run)
    assert done.code == 0, done.err
    assert f"checkpoint {newest.name} is broken and not used" in done.err
    assert_equal_runs(run, undisturbed, kind)

"""The contestants of `benchmarks.gpu_check` without a GPU: torch's trains on the CPU what ours trains on the host."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gpu import race
from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.race import Contestant, run_race
from benchmarks.gpu.task import Task
from tests.cuda_host import host_runtime

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")


@pytest.mark.slow
def test_both_contestants_train_the_same_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not host_runtime.is_possible():
        pytest.skip(host_runtime.NO_COMPILER)
    monkeypatch.setattr(race, "ROUNDS", 1)
    monkeypatch.setattr(race, "STEPS", 1)
    deadline, log = Deadline(100), tmp_path / "log"
    ours = Contestant("ours", "tests.benchmarks.gpu_contestant", ["--on-host"], log, deadline)
    peer = Contestant("peer", "benchmarks.gpu.peer", ["--attention", "sdpa"], log, deadline)
    tasks = Task("pico", "full", rows=2, length=12, checkpointing=True), Task("pico", "lora", rows=2, length=12)
    try:
        for task in tasks:
            found = run_race([ours, peer], task, together=True)
            losses = [one.first_loss for one in found.results]
            assert losses[0] == pytest.approx(losses[1], rel=0.02)
            assert losses[0] == pytest.approx(np.log(300), rel=0.05)
            assert all(one.last_loss < one.first_loss for one in found.results)
    finally:
        ours.stop()
        peer.stop()

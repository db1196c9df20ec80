"""A run that is killed on both sides of the step at which quantization starts leaves the bytes of a whole one."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.command import entrenar, start
from tests.e2e.test_kill_and_resume import assert_equal_runs, kill_when, resume, steps_are_logged, steps_logged
from tests.stages.tiny_base import write_base, write_config, write_data

WARMUP, STEPS = 15, 30


@pytest.mark.slow
def test_killed_before_and_after_the_switch(tmp_path: Path) -> None:
    write_base(tmp_path / "base.gguf", type_name="F16")
    shutil.copy(write_data(tmp_path), tmp_path / "val.parquet")
    config = write_config(
        tmp_path,
        lora=None,
        data={"val": str(tmp_path / "val.parquet")},
        quantize={"type": "q4_0", "pure": True, "stage": "qat", "qat": {"warmup": WARMUP, "gradient": "clipped"}},
        training={"max_steps": STEPS, "save_every": 2, "eval_every": 5},
    )
    undisturbed, run = tmp_path / "undisturbed", tmp_path / "disturbed"
    done = entrenar("train", config, "--output-dir", undisturbed)
    assert done.code == 0, done.err
    assert f"weights are quantized from here on (step {WARMUP} is done): matrices 16 in Q4_0" in done.err
    for step in (WARMUP - 1, WARMUP + 2):
        process = start("train", config, "--output-dir", run, *(["--resume"] if steps_logged(run) else []))
        assert kill_when(process, partial(steps_are_logged, run, step))
    resume(config, run)
    assert_equal_runs(run, undisturbed, "full")

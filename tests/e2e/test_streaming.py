"""A run over streamed data that is killed and resumed leaves the bytes of one that nothing happened to."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.command import call, metrics, start
from tests.e2e.test_kill_and_resume import kill_when, steps_are_logged, steps_logged
from tests.stages.tiny_base import stories, write_base, write_config

STEPS, BATCH, ROWS = 70, 24, 1200
KILLED_AFTER = (12, 48, 64)
"""Steps: in the first of two segments of the first pass, in the second one, and in the second pass."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sources of many row groups, one of them seen by half in each pass."""
    folder = tmp_path_factory.mktemp("streaming")
    write_base(folder / "base.gguf")
    pairs = [stories()[row % 20] for row in range(ROWS)]
    prompts = [f"{row}: {prompt}" for row, (prompt, _) in enumerate(pairs)]
    answers = [completion for _, completion in pairs]
    pq.write_table(pa.table({"prompt": prompts, "completion": answers}), folder / "pairs.parquet", row_group_size=70)
    pq.write_table(pa.table({"text": answers[:400]}), folder / "texts.parquet", row_group_size=30)
    pq.write_table(pa.table({"text": answers[:30]}), folder / "val.parquet")
    train = [str(folder / "pairs.parquet"), {"path": str(folder / "texts.parquet"), "weight": 0.5}]
    data = {"train": train, "val": str(folder / "val.parquet"), "streaming": True, "batch_size": BATCH}
    training = {"max_steps": STEPS, "save_every": 5, "eval_every": 30}
    return write_config(folder, data=data, training=training)


@pytest.fixture(scope="module")
def undisturbed(config: Path) -> Path:
    folder = config.parent / "undisturbed"
    done = call("train", config, "--output-dir", folder)
    assert done.code == 0, done.err
    return folder


def test_the_run_goes_over_segments_and_passes(undisturbed: Path) -> None:
    epochs = {line["step"]: line["epoch"] for line in metrics(undisturbed) if line["event"] == "step"}
    rows_of_a_pass = ROWS + 400 // 2
    assert epochs[STEPS] == pytest.approx(STEPS * BATCH / rows_of_a_pass, abs=0.06)
    assert 0.0 < epochs[KILLED_AFTER[0]] < 0.5 < epochs[KILLED_AFTER[1]] < 1.0 < epochs[KILLED_AFTER[2]]


@pytest.mark.slow
def test_killed_and_resumed_in_each_of_them(config: Path, undisturbed: Path) -> None:
    run = config.parent / "disturbed"
    for steps in KILLED_AFTER:
        process = start("train", config, "--output-dir", run, *(["--resume"] if steps_logged(run) else []))
        assert kill_when(process, partial(steps_are_logged, run, steps))
        assert steps <= steps_logged(run) < STEPS
    done = call("train", config, "--resume", "--output-dir", run)
    assert done.code == 0, done.err
    for name in ("model.gguf", "adapter.gguf"):
        assert (run / name).read_bytes() == (undisturbed / name).read_bytes(), name
    assert metrics(run) == metrics(undisturbed)


def test_streamed_data_that_changed_are_another_run(config: Path, undisturbed: Path) -> None:
    file = config.parent / "texts.parquet"
    content = file.read_bytes()
    try:
        pq.write_table(pa.table({"text": ["Ada has a new hat."] * 400}), file, row_group_size=30)
        done = call("train", config, "--resume", "--output-dir", undisturbed)
    finally:
        file.write_bytes(content)
    assert done.code == 2
    assert "belongs to another run" in done.err
    assert "data.train" in done.err

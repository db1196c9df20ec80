"""Every ready configuration runs as it is delivered, only shorter, and what it leaves can be opened and repeated."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors import safe_open

from entrenar_core.config.load import load_config
from entrenar_core.config.root import Config
from entrenar_core.gguf.reader import GGUFFile
from tests.e2e.command import call, entrenar, metrics
from tests.stages import gguf_py

CONFIGS = sorted(
    path
    for path in (Path(__file__).parents[2] / "configs").glob("*.yaml")
    if not path.stem.startswith(("merge-", "distill-"))
)
"""Those of `entrenar train`; merges and distillations have tests of their own."""

SHORT = ["training.epochs=null", "training.max_steps=3", "data.batch_size=4"]
SHORTER = {
    **dict.fromkeys(("alpaca", "chat", "classification", "multi-source", "regression", "sharegpt"), SHORT),
    "pretrain-tiny": ["training.epochs=null", "training.max_steps=2", "data.batch_size=2", "data.val_fraction=0.001"],
    "qat": ["training.max_steps=3", "data.batch_size=4", "quantize.qat.warmup=1"],
    "quickstart": ["training.max_steps=3", "data.batch_size=4"],
    "seed-example": ["training.max_steps=3"],
    "text": ["training.max_steps=3", "data.batch_size=4", "data.val_fraction=0.001", "training.eval_every=null"],
}
QUICK = ("quickstart", "qat", "chat", "classification")
"""What is run by default: weights, rounded weights, a template, and a head."""

MEASURED = ("step", "eval", "quantization_started", "rounded")
"""Events that are lines of metrics.jsonl too."""
HEADS = ("classification", "regression")
WITHOUT_VALIDATION = ("seed-example",)
SEED_EXAMPLE = """\
model:      {path: base.gguf, layers: [q_proj, k_proj, v_proj, o_proj]}
data:       {train: train.parquet, batch_size: 8, auto_infer_types: true}
optimizer:  {name: adam, lr: 1e-4}
lora:       {rank: 64, alpha: 16}
quantize:   {bits: 4, symmetric: true}
merge:      {method: TIES, density: 0.2}
"""


def slow_unless_quick(path: Path) -> tuple[pytest.MarkDecorator, ...]:
    return () if path.stem in QUICK else (pytest.mark.slow,)


def test_each_configuration_has_its_short_run() -> None:
    assert [path.stem for path in CONFIGS] == sorted(SHORTER)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem, marks=slow_unless_quick(path)) for path in CONFIGS])
def test_a_configuration_runs_and_what_it_leaves_can_be_used(path: Path, project_root: Path, tmp_path: Path) -> None:
    changes = [argument for change in SHORTER[path.stem] for argument in ("--set", change)]
    done = entrenar("train", path, "--json", "--output-dir", tmp_path / "run", *changes, cwd=project_root)
    assert done.code == 0, done.err
    events = done.events()
    evaluates = path.stem not in WITHOUT_VALIDATION
    kinds = {"run_started", "step", "saved", "finished", *(["eval"] if evaluates else [])}
    assert {event["event"] for event in events} >= kinds
    config = load_config(path, [*SHORTER[path.stem], f"training.output_dir={tmp_path / 'run'}"])
    run = tmp_path / "run"

    made = (
        {"model.gguf"} | ({"adapter.gguf"} if config.lora else set()) | ({"head.gguf"} if path.stem in HEADS else set())
    )
    assert {file.name for file in run.glob("*.gguf")} == made
    for file in run.glob("*.gguf"):
        assert_both_readers_agree(file)
    assert_metrics_are_complete(run, [event for event in events if event["event"] in MEASURED])
    for folder in (run / "checkpoints").iterdir():
        assert_checkpoint_is_whole(folder)

    assert load_config(run / "config.resolved.yaml") == config
    again = call("train", run / "config.resolved.yaml", "--output-dir", tmp_path / "again", cwd=project_root)
    assert again.code == 0, again.err
    assert metrics(tmp_path / "again") == metrics(run)
    for file in run.glob("*.gguf"):
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name

    if path.stem in HEADS:
        assert_it_predicts(run, config, project_root)
    else:
        assert_it_writes(run)


def assert_it_writes(run: Path) -> None:
    text = call("generate", run / "model.gguf", "-p", "One day", "--temperature", "0", "--max-tokens", "8")
    assert (text.code, text.err) == (0, "")
    assert text.out.strip()


def assert_it_predicts(run: Path, config: Config, project_root: Path) -> None:
    """For the data that it was trained on, whose labels it also knows how to judge by."""
    (source,) = config.data.train
    output = run.parent / "predictions.parquet"
    done = call("predict", source.path, "--run", run, "--output", output, "--json", cwd=project_root)
    assert done.code == 0, done.err
    last, table = done.events()[-1], pq.read_table(output)
    metrics_of_task = {"accuracy", "macro_f1"} if "probability" in table.column_names else {"mse", "mae", "r2"}
    assert set(last["metrics"]) == metrics_of_task
    assert last["rows"] == last["judged"] == table.num_rows > 0
    assert table["prediction"].null_count == 0


def test_the_example_of_the_seed_is_run_literally_but_for_its_paths(project_root: Path) -> None:
    text = (project_root / "configs" / "seed-example.yaml").read_text()
    text = text.replace("examples/tiny-base.gguf", "base.gguf").replace("examples/tiny-train.parquet", "train.parquet")
    assert "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")) == SEED_EXAMPLE


def assert_both_readers_agree(path: Path) -> None:
    with GGUFFile.open(path) as file:
        assert list(file.tensors) == list(gguf_py.types(path))
        for name in file.tensors:
            values = file.load(name)
            assert np.isfinite(values).all(), name
            np.testing.assert_array_equal(values, gguf_py.values(path, name), err_msg=name)


def assert_metrics_are_complete(run: Path, events: list[dict[str, object]]) -> None:
    lines = metrics(run, ignored=())
    assert lines == events
    steps = [line["step"] for line in lines if line["event"] == "step"]
    assert steps == list(range(1, len(steps) + 1))


def assert_checkpoint_is_whole(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    assert f"step-{state['state']['step']:06d}" == folder.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        with safe_open(folder / name, "numpy") as file:
            for key in file.keys():  # noqa: SIM118 - it is no mapping
                assert np.isfinite(file.get_tensor(key)).all(), key

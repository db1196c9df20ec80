"""From a model and a data file to a trained model, with nothing but what each command says to do next."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.command import call, entrenar, tree
from tests.stages.tiny_base import NAMES, THINGS, stories, write_base

REVIEWS = [f"{name} saw the {thing}" for name in NAMES for thing in THINGS for _ in range(6)]
ON_ONE_THREAD = ("--set", "training.threads=1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "my model.gguf")
    return tmp_path


@pytest.mark.slow
def test_init_validate_plan_train_in_a_shell(folder: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": one}, {"role": "assistant", "content": other}]}
        for one, other in stories()
    ]
    (folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    written = entrenar("init", "my model.gguf", "talk.jsonl", cwd=folder)
    assert written.code == 0, written.err
    before = tree(folder)
    assert "config.yaml is valid" in entrenar("validate", "config.yaml", cwd=folder).out
    plan = entrenar("train", "config.yaml", "--dry-run", "--json", *ON_ONE_THREAD, cwd=folder).document()
    assert tree(folder) == before

    done = entrenar("train", "config.yaml", "--json", *ON_ONE_THREAD, cwd=folder)
    assert done.code == 0, done.err
    events = done.events()
    started = next(event for event in events if event["event"] == "run_started")
    steps = [event for event in events if event["event"] == "step"]
    assert started["train_examples"] == plan["train_tokens"]["samples"]
    assert started["total_steps"] == len(steps) == plan["steps"]["steps"]
    assert sum(step["supervised_tokens"] for step in steps) == plan["train_tokens"]["supervised_tokens"]
    assert started["trainable_parameters"] == plan["trainable_parameters"]
    assert started["output_dir"] == plan["output_dir"] == "runs/config"
    assert (folder / "runs" / "config" / "model.gguf").is_file()


def test_a_plan_says_how_much_disk_the_run_takes(folder: Path) -> None:
    prompts, completions = zip(*stories(), strict=True)
    pq.write_table(pa.table({"prompt": prompts, "completion": completions}), folder / "train.parquet")
    assert call("init", "my model.gguf", "train.parquet", cwd=folder).code == 0
    plan = call("train", "config.yaml", "--dry-run", "--json", cwd=folder).document()
    assert call("train", "config.yaml", cwd=folder).code == 0
    run = folder / "runs" / "config"
    taken = sum(path.stat().st_size for path in run.rglob("*") if path.is_file())
    assert taken <= plan["disk"]["total"] <= 1.5 * taken


def test_a_head_from_init_to_predictions(folder: Path) -> None:
    moods = ["good" if "ball" in text or "hat" in text else "bad" for text in REVIEWS]
    pq.write_table(pa.table({"review": REVIEWS, "mood": moods}), folder / "reviews.parquet")
    assert call("init", "my model.gguf", "reviews.parquet", "-o", "mood.yaml", cwd=folder).code == 0
    changes = [("training.epochs", "10"), ("optimizer.lr", "0.01"), ("training.threads", "1")]
    options = [text for key, value in changes for text in ("--set", f"{key}={value}")]
    done = call("train", "mood.yaml", *options, cwd=folder)
    assert done.code == 0, done.err
    predicted = call("predict", "reviews.parquet", "--run", "runs/mood", "--json", cwd=folder).events()[-1]
    assert predicted["metrics"]["accuracy"] > 0.9, "it is told by two words"
    table = pq.read_table(folder / "predictions.parquet")
    assert table["review"].to_pylist() == REVIEWS
    assert set(table["prediction"].to_pylist()) == {"good", "bad"}

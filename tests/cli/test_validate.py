"""`entrenar validate`: is the YAML right, and do model, data and output folder fit it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.e2e.command import Outcome, call, tree
from tests.stages.tiny_base import write_base, write_config, write_data

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    write_config(tmp_path)
    return tmp_path


def validate(folder: Path, *arguments: str) -> Outcome:
    before = tree(folder)
    done = call("validate", "config.yaml", *arguments, cwd=folder)
    assert tree(folder) == before
    return done


def test_a_good_configuration_says_what_was_found_and_what_comes_next(folder: Path) -> None:
    done = validate(folder)
    assert (done.code, done.err) == (0, "")
    for text in ("base.gguf (llama)", "LoRA of rank 4 on all", "20 rows", "prompt", "completion"):
        assert text in done.out
    assert done.out.endswith("config.yaml is valid. See what it would take: entrenar train config.yaml --dry-run\n")


def test_the_keys_for_scripts_are_these(folder: Path) -> None:
    document = validate(folder, "--json").document()
    expected = {"model", "architecture", "method", "train", "val", "is_streamed", "output_dir", "warnings", "distill"}
    assert set(document) == expected
    (source,) = document["train"]
    assert set(source) == {"path", "rows", "n_bytes", "weight", "task", "reason", "columns"}
    assert set(source["columns"][0]) == {"name", "kind", "reason", "role"}
    assert [column["role"] for column in source["columns"]] == ["prompt", "completion"]


def test_several_sources_and_validation_data_are_all_opened(folder: Path) -> None:
    shutil.copy(folder / "train.parquet", folder / "val.parquet")
    pq.write_table(pa.table({"text": ["Ada saw a ball and a hat."] * 3}), folder / "more.parquet")
    train = [str(folder / "train.parquet"), {"path": str(folder / "more.parquet"), "weight": 0.5}]
    write_config(folder, data={"train": train, "val": str(folder / "val.parquet")})
    document = validate(folder, "--json").document()
    assert [(source["task"], source["weight"]) for source in document["train"]] == [
        ("prompt_completion", 1.0),
        ("text", 0.5),
    ]
    assert [source["task"] for source in document["val"]] == ["prompt_completion"]


def test_a_stream_is_said_to_be_one(folder: Path) -> None:
    write_config(folder, data={"streaming": True})
    assert "streamed while training" in validate(folder).out
    assert validate(folder, "--json").document()["is_streamed"] is True


def test_overrides_are_checked_too(folder: Path) -> None:
    assert validate(folder, "--set", "training.max_steps=5").code == 0
    done = validate(folder, "--set", "training.max_steps=many")
    assert done.code == 2
    assert "--set training.max_steps" in done.err


def test_all_mistakes_of_the_yaml_come_at_once(folder: Path) -> None:
    write_config(folder, optimizer={"learning_rate": 1}, lora={"rank": 0})
    done = validate(folder)
    assert done.code == 2
    assert "2 problems in the configuration" in done.err
    assert "optimizer.lr" in done.err
    assert "lora.rank" in done.err


def test_the_results_of_an_earlier_run_make_no_config_wrong_but_are_said(folder: Path) -> None:
    assert call("train", "config.yaml", cwd=folder).code == 0
    done = validate(folder)
    assert done.code == 0
    assert "checkpoints of an earlier run" in done.out
    assert "--resume" in done.out

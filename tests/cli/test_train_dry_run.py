"""`entrenar train --dry-run`: the plan as a person and as a script reads it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.stages import dry_run
from tests.e2e.command import Outcome, call, tree
from tests.stages.tiny_base import write_base, write_config, write_data

pytestmark = pytest.mark.integration

COUNTS = {
    "samples",
    "total_tokens",
    "supervised_tokens",
    "overlong_samples",
    "truncated_tokens",
    "refused",
    "is_estimate",
}
PART = {"name", "n_bytes"}
KEYS: dict[str, Any] = {
    "model": str,
    "architecture": str,
    "parameters": int,
    "trainable_parameters": int,
    "method": str,
    "train": {"path", "rows", "n_bytes", "weight", "task", "reason", "columns"},
    "train.columns": {"name", "kind", "reason", "role"},
    "val": {"path", "rows", "n_bytes", "weight", "task", "reason", "columns"},
    "train_tokens": COUNTS,
    "val_tokens": COUNTS,
    "steps": {"steps", "epochs", "batches_per_step", "batch_rows", "row_width", "evaluations", "checkpoints"},
    "memory": {"parts", "total", "needed"},
    "memory.parts": PART,
    "memory_verdict": {"needed", "available", "change", "fits"},
    "disk": {"parts", "free", "total", "fits"},
    "disk.parts": PART,
    "time": {"seconds_per_step", "seconds", "tokens_per_second", "method"},
    "output_dir": str,
    "previews": {"source", "tokens", "supervised", "segments"},
    "previews.segments": {"text", "is_trained", "is_special"},
    "warnings": list,
    "distill": type(None),
    "device": str,
    "device_memory": type(None),
}
"""What scripts may count on: for each place the type of its value, or its keys (of its entries, where it is a list)."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    shutil.copy(write_data(tmp_path), tmp_path / "val.parquet")
    write_config(tmp_path, data={"val": str(tmp_path / "val.parquet")})
    return tmp_path


def dry_run_of(folder: Path, *arguments: str) -> Outcome:
    before = tree(folder)
    done = call("train", "config.yaml", "--dry-run", *arguments, cwd=folder)
    assert tree(folder) == before
    return done


def at(document: Any, place: str) -> Any:
    """The value at a dotted place; of a list its first entry."""
    for key in place.split("."):
        document = document[key]
        document = document[0] if isinstance(document, list) and document else document
    return document


def test_the_keys_for_scripts_are_these(folder: Path) -> None:
    done = dry_run_of(folder, "--json")
    assert (done.code, done.err) == (0, "")
    document = done.document()
    assert set(document) == {place for place in KEYS if "." not in place}
    for place, expected in KEYS.items():
        found = at(document, place)
        if isinstance(expected, set):
            assert set(found) == expected, place
        else:
            assert isinstance(found, expected), place


def test_the_sums_in_it_are_those_of_the_parts(folder: Path) -> None:
    document = dry_run_of(folder, "--json").document()
    for key in ("memory", "disk"):
        assert sum(part["n_bytes"] for part in document[key]["parts"]) == document[key]["total"]
    assert document["memory_verdict"]["needed"] == document["memory"]["needed"]


def test_a_person_sees_what_is_trained_and_what_it_takes(folder: Path) -> None:
    done = dry_run_of(folder)
    assert done.code == 0
    for text in (
        "base.gguf (llama)",
        "LoRA of rank 4 on all",
        "3 (0.6 epochs)",
        "task: prompt_completion (inferred from its columns)",
        "validation data: ",
        "tokens of one epoch",
        "that are free",
        "about ",
        "examples: ⟦learned⟧, the rest is context; ↵ is a line end",
        "Ada saw a red ball.↵\n⟦It was Ada's red ball.<|endoftext|>⟧",
    ):
        assert text in done.out


def test_columns_that_are_ignored_are_said_to_be(folder: Path) -> None:
    table = pq.read_table(folder / "train.parquet").append_column("source", pa.array(["the web"] * 20))
    pq.write_table(table, folder / "train.parquet")
    line = next(line for line in dry_run_of(folder).out.splitlines() if line.split()[:1] == ["source"])
    assert "ignored" in line


def test_a_run_too_large_for_the_memory_is_said_to_be_and_is_no_failure(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = dry_run_of(folder, "--json").document()["memory"]["needed"]
    monkeypatch.setattr(dry_run, "available_memory_bytes", lambda: needed - 1)
    done = dry_run_of(folder)
    assert done.code == 0
    assert "it will not fit; data.batch_size: 2 with training.grad_accum × 2 would need" in done.out
    assert "the run does not fit into the free memory, so no step was timed" in done.out
    document = dry_run_of(folder, "--json").document()
    assert document["time"] is None
    assert document["memory_verdict"]["fits"] is False
    assert set(document["memory_verdict"]["change"]) == {"keys", "needed"}


def test_overrides_count_as_in_a_run(folder: Path) -> None:
    document = dry_run_of(folder, "--json", "--set", "training.max_steps=7", "--output-dir", "elsewhere").document()
    assert (document["steps"]["steps"], document["output_dir"]) == (7, "elsewhere")


def test_text_of_the_data_cannot_act_on_the_terminal(folder: Path) -> None:
    table = pa.table({"prompt": ["\x1b[31mred\x07"], "completion": ["a\x1b]0;title\x07b"]})
    pq.write_table(table, folder / "train.parquet")
    for arguments in ((), ("--json",)):
        done = dry_run_of(folder, *arguments)
        assert done.code == 0
        assert not set(done.out) & {"\x1b", "\x07"}

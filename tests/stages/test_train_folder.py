"""A run keeps its hands off what other runs have left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entrenar_core.errors import DataError, OutputError
from entrenar_core.events import Step
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.stages.train import run_training
from tests.stages.tiny_base import config, train, write_base
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_run_into_the_same_folder_is_refused_and_changes_nothing(folder: Path) -> None:
    train(folder)
    before = tree(folder)
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        train(folder, optimizer={"lr": 0.5})
    assert tree(folder).keys() == before.keys()
    assert tree(folder / "run") == {
        name.removeprefix("run/"): content for name, content in before.items() if name.startswith("run/")
    }


def test_results_without_checkpoints_are_not_written_over_either(folder: Path) -> None:
    (folder / "run").mkdir()
    (folder / "run" / "adapter.gguf").write_text("precious")
    with pytest.raises(OutputError, match="the result of an earlier run"):
        train(folder)


def test_a_run_does_not_write_over_its_base(folder: Path) -> None:
    write_base(folder / "model.gguf")
    model, place = {"path": str(folder / "model.gguf")}, {"output_dir": str(folder)}
    with pytest.raises(OutputError, match="would write over it"):
        train(folder, model=model, training=place)


def test_resuming_into_another_folder_does_not_touch_the_run_there(folder: Path) -> None:
    train(folder, training={"save_every": 1})
    train(folder, training={"seed": 7, "output_dir": str(folder / "other")})
    start = folder / "run" / "checkpoints" / "step-000002"
    with pytest.raises(OutputError, match="checkpoints of an earlier run"):
        run_training(
            config(folder, training={"save_every": 1, "output_dir": str(folder / "other")}),
            resume_from=start,
            reporter=Listener(),
        )
    assert (folder / "other" / "checkpoints" / "step-000003").is_dir()


def test_resuming_into_a_new_folder_gives_the_same_result(folder: Path) -> None:
    train(folder, training={"save_every": 1})
    start = folder / "run" / "checkpoints" / "step-000002"
    again = config(folder, training={"save_every": 1, "output_dir": str(folder / "new")})
    listener = Listener()
    run_training(again, resume_from=start, reporter=listener)
    assert [event.step for event in listener.of(Step)] == [3]
    for name in ("model.gguf", "adapter.gguf"):
        assert (folder / "new" / name).read_bytes() == (folder / "run" / name).read_bytes()


def test_overwrite_replaces_the_run_and_nothing_else(folder: Path) -> None:
    train(folder, training={"save_every": 1, "output_dir": str(folder / "fresh")}, optimizer={"lr": 0.5})
    train(folder, training={"save_every": 1})
    (folder / "run" / "notes.txt").write_text("mine")
    run_training(config(folder, training={"save_every": 1}, optimizer={"lr": 0.5}), overwrite=True, reporter=Listener())
    assert (folder / "run" / "notes.txt").read_text() == "mine"
    assert (folder / "run" / "adapter.gguf").read_bytes() != b""
    steps = [path.name for path in sorted((folder / "run" / "checkpoints").iterdir())]
    assert steps == [path.name for path in sorted((folder / "fresh" / "checkpoints").iterdir())]
    assert (folder / "run" / "adapter.gguf").read_bytes() == (folder / "fresh" / "adapter.gguf").read_bytes()


def test_overwrite_with_input_that_is_wrong_keeps_the_run(folder: Path) -> None:
    train(folder)
    before = tree(folder / "run")
    (folder / "train.parquet").unlink()
    with pytest.raises(DataError):
        run_training(config(folder), overwrite=True, reporter=Listener())
    assert tree(folder / "run") == before


def test_a_template_that_the_config_names_is_in_the_model(folder: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}] * 4
    (folder / "chat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = "{% for m in messages %}{{ m.role }}>{{ m.content }}{{ eos_token }}{% endfor %}"
    train(folder, data={"train": str(folder / "chat.jsonl"), "chat_template": template})
    with GGUFFile.open(folder / "run" / "model.gguf") as file:
        assert file.metadata["tokenizer.chat_template"] == template


def test_the_models_own_template_stays_as_it_is(folder: Path) -> None:
    train(folder)
    with GGUFFile.open(folder / "run" / "model.gguf") as file, GGUFFile.open(folder / "base.gguf") as base:
        assert file.metadata["tokenizer.chat_template"] == base.metadata["tokenizer.chat_template"]

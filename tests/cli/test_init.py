"""`entrenar init` on the command line: what it writes, refuses, and asks on a terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_core.config.load import load_config
from tests.e2e.command import call, environment, tree
from tests.stages.tiny_base import write_base, write_data

LONG = [f"This is a rather long text about the things of number {number}" for number in range(30)]


pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    return tmp_path


@pytest.fixture
def tied(folder: Path) -> Path:
    """Data whose columns leave three choices."""
    pq.write_table(pa.table({"body": LONG, "summary": LONG[::-1]}), folder / "train.parquet")
    return folder


def test_the_file_is_written_and_shown(folder: Path) -> None:
    done = call("init", "base.gguf", "train.parquet", cwd=folder)
    assert done.code == 0
    assert done.out == (folder / "config.yaml").read_text()
    assert done.err.strip() == "config.yaml is written. Next: entrenar train config.yaml --dry-run"


def test_what_it_writes_validates_and_plans(folder: Path) -> None:
    assert call("init", "base.gguf", "train.parquet", "-o", "my run.yaml", cwd=folder).code == 0
    checked = call("validate", "my run.yaml", cwd=folder)
    assert checked.code == 0, checked.err
    assert "entrenar train 'my run.yaml' --dry-run" in checked.out
    assert load_config(folder / "my run.yaml").training.output_dir == "runs/my run"


def test_the_only_files_here_need_no_names(folder: Path) -> None:
    done = call("init", cwd=folder)
    assert done.code == 0
    assert "model: base.gguf (the only one here)" in done.err
    assert "data: train.parquet (the only one here)" in done.err


def test_an_existing_file_is_left_as_it_is_unless_forced(folder: Path) -> None:
    (folder / "config.yaml").write_text("mine")
    before = tree(folder)
    done = call("init", "base.gguf", "train.parquet", cwd=folder)
    assert done.code == 2
    assert "config.yaml: the file exists already" in done.err
    assert "--force" in done.err
    assert tree(folder) == before
    assert call("init", "base.gguf", "train.parquet", "--force", cwd=folder).code == 0
    assert (folder / "config.yaml").read_text() != "mine"


def test_json_says_what_is_written_and_nothing_else(folder: Path) -> None:
    done = call("init", "base.gguf", "train.parquet", "--json", cwd=folder)
    content = (folder / "config.yaml").read_bytes()
    expected = {"event": "saved", "kind": "config", "path": "config.yaml", "n_bytes": len(content)}
    assert (done.document(), done.err) == (expected, "")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["base.gguf", "absent.parquet"], "absent.parquet: the file does not exist"),
        (["absent.gguf", "train.parquet"], "absent.gguf: there is no such file"),
        (["train.parquet", "train.parquet"], "train.parquet"),
        (["base.gguf", "base.gguf"], "this is a model"),
        (["base.gguf", "train.parquet", "--column", "prompt"], "a column is written role=name"),
        (["base.gguf", "train.parquet", "--column", "text=ask"], "there is no column 'ask'"),
        (["base.gguf", "train.parquet", "--task", "chatt"], "did you mean chat?"),
        (["base.gguf", "train.parquet", "-o", "no/config.yaml"], "create the folder no first"),
    ],
)
def test_wrong_input_is_explained_and_nothing_is_written(folder: Path, arguments: list[str], says: str) -> None:
    before = tree(folder)
    done = call("init", *arguments, cwd=folder)
    assert (done.code, done.out) == (2, "")
    assert done.err.count("error:") == 1
    assert says in done.err
    assert tree(folder) == before


def test_several_files_to_choose_from_are_named(folder: Path) -> None:
    write_base(folder / "other.gguf")
    done = call("init", cwd=folder)
    assert done.code == 2
    assert "which model? here are base.gguf, other.gguf" in done.err
    assert "entrenar init MODEL DATA" in done.err


def test_a_tie_says_how_to_settle_it_here(tied: Path) -> None:
    done = call("init", "base.gguf", "train.parquet", cwd=tied)
    assert done.code == 2
    assert "several choices of columns fit" in done.err
    assert "--column ROLE=NAME" in done.err
    chosen = ("--column", "prompt=body", "--column", "completion=summary")
    assert call("init", "base.gguf", "train.parquet", *chosen, cwd=tied).code == 0
    assert load_config(tied / "config.yaml").data.columns == {"prompt": "body", "completion": "summary"}


# -- on a terminal --------------------------------------------------------------------------------------------------


def on_a_terminal(folder: Path, *arguments: str, answers: dict[str, str]) -> tuple[int, str]:
    """Run `entrenar init` with a terminal as stdin and stderr, and type each answer when its question is asked.

    Returns the exit code and what the terminal showed.
    """
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "entrenar_cli", "init", *arguments],
        cwd=folder,
        env=environment(),
        stdin=theirs,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
    )
    os.close(theirs)
    shown, waiting = "", dict(answers)
    try:
        while (text := _read(ours)) is not None:
            shown += text
            for question in [question for question in waiting if question in shown]:
                os.write(ours, f"{waiting.pop(question)}\n".encode())
        code = process.wait(timeout=60)
    finally:
        process.kill()
        os.close(ours)
    assert not waiting, f"never asked: {waiting}; shown: {shown}"
    return code, shown


def _read(terminal: int) -> str | None:
    """What comes next; None at the end (Linux raises EIO there) or when nothing comes for a minute."""
    if not select.select([terminal], [], [], 60)[0]:
        return None
    try:
        return os.read(terminal, 4096).decode("utf-8", "replace") or None
    except OSError:
        return None


def test_a_tie_is_asked_and_the_answer_taken(tied: Path) -> None:
    code, shown = on_a_terminal(
        tied, "base.gguf", "train.parquet", answers={"Which one": "nine", "a number from 1 to 3": "3"}
    )
    assert code == 0, shown
    assert "3. prompt_completion: prompt 'body' + completion 'summary'" in shown
    config = load_config(tied / "config.yaml")
    assert (config.data.task, config.data.columns) == (
        "prompt_completion",
        {"prompt": "body", "completion": "summary"},
    )


def test_which_model_is_asked_and_the_answer_taken(folder: Path) -> None:
    write_base(folder / "other.gguf")
    code, shown = on_a_terminal(folder, answers={"Which model? here are base.gguf, other.gguf": "other.gguf"})
    assert code == 0, shown
    assert load_config(folder / "config.yaml").model.path == "other.gguf"


def test_an_error_that_no_answer_settles_is_not_followed_by_a_question(folder: Path) -> None:
    code, shown = on_a_terminal(folder, "base.gguf", "absent.parquet", answers={})
    assert code == 2
    assert "error: absent.parquet: the file does not exist" in shown
    assert "Which" not in shown

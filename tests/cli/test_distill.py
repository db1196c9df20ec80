"""`entrenar distill`: what it asks for beyond `entrenar train`, and that it is the same run otherwise."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entrenar_core.config.load import load_config
from tests.e2e.command import call
from tests.stages.tiny_base import base_spec, write_base, write_config, write_data

pytestmark = pytest.mark.integration


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A teacher of three blocks, data, and a configuration without a distill section."""
    write_base(tmp_path / "base.gguf", base_spec(num_layers=3))
    write_data(tmp_path)
    write_config(tmp_path)
    return tmp_path


def student(folder: Path) -> None:
    """The configuration of a student of two blocks that learns from data alone."""
    distill = {"teacher": str(folder / "base.gguf"), "alpha": 0, "student": {"layers": 2}}
    write_config(folder, model=None, lora=None, distill=distill)


def test_a_file_without_teachers_is_refused_and_the_other_command_named(folder: Path) -> None:
    done = call("distill", "config.yaml", cwd=folder)
    assert done.code == 2
    assert "config.yaml: there is no distill section, so there is no teacher" in done.err
    assert "or give --teacher big.gguf; without one: entrenar train config.yaml" in done.err


@pytest.mark.parametrize(
    ("section", "given", "paths"),
    [
        (None, ["a.gguf"], ["a.gguf"]),
        ({"teacher": "old.gguf"}, ["a.gguf"], ["a.gguf"]),
        ({"teachers": ["old.gguf", "older.gguf"]}, ["a.gguf"], ["a.gguf"]),
        ({"teacher": "old.gguf"}, ["a b.gguf", "c.gguf"], ["a b.gguf", "c.gguf"]),
    ],
)
def test_teachers_that_are_given_take_the_place_of_those_of_the_file(
    folder: Path, section: dict[str, object] | None, given: list[str], paths: list[str]
) -> None:
    from entrenar_cli.commands.distill import _teachers

    path = write_config(folder, distill=section)
    config = load_config(path, _teachers([Path(one) for one in given]))
    assert config.distill is not None
    assert [teacher.path for teacher in config.distill.all_teachers] == paths


def test_a_wrong_option_is_named(folder: Path) -> None:
    done = call("distill", "config.yaml", "--teacher", "base.gguf", "--set", "distill.alpha=2", cwd=folder)
    assert done.code == 2
    assert "--set distill.alpha: value 2; must be a number of at least 0 and of at most 1" in done.err


def test_it_trains_the_student_plans_it_and_goes_on(folder: Path) -> None:
    student(folder)
    plan = call("distill", "config.yaml", "--dry-run", "--json", cwd=folder)
    assert (plan.code, plan.err) == (0, "")
    assert json.loads(plan.out)["steps"]["steps"] == 3
    done = call("distill", "config.yaml", "--output-dir", "out", "--json", cwd=folder)
    assert done.code == 0, done.err
    assert (folder / "out" / "model.gguf").is_file()
    again = call("distill", "config.yaml", "--output-dir", "out", cwd=folder)
    assert again.code != 0
    assert "--resume" in again.err
    assert call("distill", "config.yaml", "--output-dir", "out", "--resume", cwd=folder).code == 0
    both = call("distill", "config.yaml", "--resume", "--overwrite", cwd=folder)
    assert "--overwrite and --resume say opposite things" in both.err

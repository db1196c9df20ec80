"""The folder of a run is looked at before any work is done."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from entrenar_core.errors import OutputError
from entrenar_core.stages.output_dir import check_output_dir, make_output_dir, require_no_results


def test_a_folder_that_does_not_exist_is_fine_and_not_made_by_looking(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "run", "deep/run"])
def test_a_file_in_the_way_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken is a file, not a folder"):
        check_output_dir(tmp_path / "taken" / below)


def test_a_dangling_link_is_in_the_way_too(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="is a file, not a folder"):
        check_output_dir(tmp_path / "link" / "run")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"])
def test_a_name_that_the_system_does_not_take(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match="cannot be a folder"):
        check_output_dir(tmp_path / name)


@pytest.mark.integration
def test_a_folder_that_cannot_be_written() -> None:
    """Root may write everywhere; it becomes nobody once everything is imported."""
    code = (
        "import os, pathlib\n"
        "from entrenar_core.stages.output_dir import OutputError, check_output_dir\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try: check_output_dir(pathlib.Path('/usr/runs/1'))\n"
        "except OutputError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("/usr/runs/1: the folder /usr cannot be written\n  hint: ")


@pytest.mark.parametrize("name", ["model.gguf", "adapter.gguf", "metrics.jsonl", "config.resolved.yaml"])
def test_a_folder_with_the_name_of_a_result_is_in_the_way(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    with pytest.raises(OutputError, match="a folder has the name of a file that the run writes"):
        check_output_dir(tmp_path)


def test_an_input_is_not_written_over_whatever_it_is_called(tmp_path: Path) -> None:
    base = tmp_path / "base.gguf"
    base.write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.gguf").symlink_to(base)
    with pytest.raises(OutputError, match="the run reads this file and would write over it"):
        check_output_dir(tmp_path / "run", [tmp_path / "absent", base])


@pytest.mark.parametrize("name", ["model.gguf", "adapter.gguf"])
def test_results_of_an_earlier_run_are_not_written_over(tmp_path: Path, name: str) -> None:
    require_no_results(tmp_path)
    (tmp_path / name).write_text("")
    with pytest.raises(OutputError, match="the result of an earlier run"):
        require_no_results(tmp_path)


def test_making_it_removes_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    stale = tmp_path / ".model.gguf.0123abcd.partial"
    others = [tmp_path / name for name in ("model.gguf.partial", ".model.gguf.partial", ".other.gguf.0123abcd.partial")]
    for path in (stale, *others):
        path.write_text("")
    make_output_dir(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(others)

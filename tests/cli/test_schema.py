"""``entrenar schema``: the JSON Schema on stdout or in a file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from entrenar_cli.main import main
from entrenar_core.config.json_schema import json_schema, merge_schema, quantize_schema


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == json_schema()
    assert captured.err == ""


def test_files_of_other_commands_have_schemas_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "quantize"]) == 0
    assert json.loads(capsys.readouterr().out) == quantize_schema()
    assert main(["schema", "merge"]) == 0
    assert json.loads(capsys.readouterr().out) == merge_schema()
    assert main(["schema", "predict"]) == 2
    assert "'train', 'quantize', 'merge'" in capsys.readouterr().err


def test_for_scripts_it_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "--json"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [json_schema()]


def test_a_file_gets_it_and_the_person_gets_the_line_for_the_editor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "entrenar.schema.json"
    assert main(["schema", "--output", str(path)]) == 0
    captured = capsys.readouterr()
    assert json.loads(path.read_text(encoding="utf-8")) == json_schema()
    assert captured.out == ""
    assert f"# yaml-language-server: $schema={path}" in captured.err


def test_a_file_is_an_event_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "entrenar.schema.json"
    assert main(["schema", "-o", str(path), "--json"]) == 0
    event = json.loads(capsys.readouterr().out)
    assert event == {"event": "saved", "kind": "schema", "path": str(path), "n_bytes": path.stat().st_size}


def test_a_file_that_cannot_be_written_is_an_error_with_a_hint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema", "-o", str(tmp_path / "nowhere" / "schema.json")]) == 2
    captured = capsys.readouterr()
    assert "cannot be written" in captured.err
    assert "hint:" in captured.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", [".", ".."])
def test_a_folder_is_no_place_to_write_it(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", "-o", folder]) == 2
    assert "there is a folder of this name" in capsys.readouterr().err

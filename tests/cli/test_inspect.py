"""``entrenar inspect``: text for people, one JSON object for scripts, and no power for files over a terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_cli.inspect_view import sections_of
from entrenar_cli.main import main
from entrenar_cli.sections import print_sections
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.stages.inspect import inspect_path
from tests.cli.terminal import terminal
from tests.stages.tiny_base import train, write_base, write_data

EVIL = "[red]x[/red]\x1b[2J\n\u202e\x9b"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model with a dangerous name, data, and a finished run."""
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    train(tmp_path)
    return tmp_path


def evil_model(folder: Path) -> Path:
    template = ("tokenizer.chat_template.evil", MetadataValue.string(EVIL))
    return write_base(folder / "evil.gguf", extra=[("general.name", MetadataValue.string(EVIL)), template])


def evil_data(folder: Path) -> Path:
    path = folder / "evil.parquet"
    pq.write_table(pa.table({f"text{EVIL}": [f"{n} {EVIL} and many more words" for n in range(20)]}), path)
    return path


THINGS: Mapping[str, tuple[str, ...]] = {
    "base.gguf": ("model", "llama", "can be trained  yes", "F32", "<|endoftext|>", "chat templates"),
    "run/adapter.gguf": ("LoRA adapter", "rank", "attn_q in 2 layers", "entrenar.version"),
    "run": ("run", "finished", "from step 3", "model.gguf"),
    "run/checkpoints/step-000003": ("checkpoint", "step", "lora.rank", "blk.0.attn_k.weight.lora_a"),
    "train.parquet": ("data", "prompt_completion", "completion", "Ada saw a red ball."),
}


def test_everything_that_a_run_needs_and_leaves_can_be_inspected(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, says in THINGS.items():
        assert main(["inspect", str(folder / name)]) == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        for text in says:
            assert text in captured.out, name


def test_for_scripts_each_is_one_object_with_its_kind(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = []
    for name in THINGS:
        assert main(["inspect", "--json", str(folder / name)]) == 0
        (line,) = capsys.readouterr().out.splitlines()
        kinds.append(json.loads(line)["kind"])
    assert kinds == ["model", "adapter", "run", "checkpoint", "data"]


def test_the_keys_of_a_model_are_stable(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "--json", str(folder / "base.gguf")])
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [
        "kind", "path", "files", "n_bytes", "version", "name", "architecture", "parameters", "sizes",
        "tied_embeddings", "obstacle", "tensor_types", "tokenizer", "chat_templates", "provenance",
    ]  # fmt: skip
    assert list(found["tensor_types"][0]) == ["type", "tensors", "values", "n_bytes"]
    assert list(found["tokenizer"]["special"][0]) == ["use", "id", "text"]


@pytest.mark.parametrize("make", [evil_model, evil_data], ids=["model", "data"])
def test_texts_of_a_file_have_no_power_over_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: object
) -> None:
    assert callable(make)
    screen = terminal(monkeypatch, 200)
    print_sections(sections_of(inspect_path(str(make(tmp_path)))), screen)
    text = screen.getvalue()
    assert "[red]x[/red]\\x1b[2J\\n\\u202e\\x9b" in text
    assert "\x1b[2J" not in text
    assert not {"\u202e", "\x9b"} & set(text)


def test_json_has_the_texts_as_they_are_in_escapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["inspect", "--json", str(evil_model(tmp_path))])
    out = capsys.readouterr().out
    assert json.loads(out)["name"] == EVIL
    assert not {"\x1b", "\u202e", "\x9b"} & set(out)


def test_a_token_that_is_no_utf_8_can_be_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = [("general.name", MetadataValue.string("bytes \udcff"))]
    path = str(write_base(tmp_path / "base.gguf", extra=extra))
    assert main(["inspect", path]) == 0
    assert "bytes \\xff" in capsys.readouterr().out
    assert main(["inspect", "--json", path]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "bytes \udcff"


def test_what_cannot_be_inspected_is_an_error_of_the_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    assert main(["inspect", str(tmp_path / "notes.txt")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "nothing that can be inspected" in captured.err
    assert "hint: known are: a GGUF file" in captured.err


def test_that_error_is_a_json_line_for_scripts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "--json", str(tmp_path / "nowhere")]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["event"], found["kind"], found["exit_code"]) == ("error", "FormatError", 2)

"""`entrenar calibrate` as a person uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.quant.imatrix import read_imatrix
from tests.e2e.command import call
from tests.stages.tiny_base import stories, write_base


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_base(tmp_path / "base.gguf")
    rows = "".join(json.dumps({"text": " ".join(pair)}) + "\n" for pair in stories())
    (tmp_path / "texts.jsonl").write_text(rows)
    return tmp_path


def test_a_file_is_written_and_said(folder: Path) -> None:
    done = call("calibrate", "base.gguf", "texts.jsonl", "-o", "im.gguf", "--rows", "3", "--threads", "1", cwd=folder)
    assert done.code == 0, done.err
    assert done.out == ""
    assert done.err.splitlines()[-2] == "calibrate: 3 done"
    assert done.err.splitlines()[-1].startswith("saved imatrix im.gguf")
    matrix = read_imatrix(folder / "im.gguf")
    assert len(matrix.entries) == 14
    assert (matrix.datasets, matrix.chunk_count, matrix.chunk_size) == (("texts.jsonl",), 3, 64)


def test_scripts_hear_json_and_can_set_all(folder: Path) -> None:
    done = call(
        *("calibrate", "base.gguf", "texts.jsonl", "--seq-len", "16", "--output-matrix", "--json", "--threads", "1"),
        cwd=folder,
    )
    assert done.code == 0
    events = done.events()
    assert {event["event"] for event in events} - {"compiling"} == {"progress", "saved"}
    assert events[-1]["path"] == "imatrix.gguf"
    matrix = read_imatrix(folder / "imatrix.gguf")
    assert matrix.chunk_size == 16
    assert "output.weight" in matrix.entries


def test_a_file_that_is_there_is_replaced_only_when_that_is_said(folder: Path) -> None:
    (folder / "im.gguf").write_text("mine")
    arguments = ("calibrate", "base.gguf", "texts.jsonl", "-o", "im.gguf", "--rows", "1", "--threads", "1")
    done = call(*arguments, cwd=folder)
    assert (done.code, (folder / "im.gguf").read_text()) == (2, "mine")
    assert "replace it with --overwrite" in done.err
    assert "calibrate:" not in done.err, "seen before anything is measured"
    assert call(*arguments, "--overwrite", cwd=folder).code == 0
    assert len(read_imatrix(folder / "im.gguf").entries) == 14


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.gguf", "texts.jsonl"), "missing.gguf: there is no such file"),
        (("base.gguf", "missing.jsonl"), "missing.jsonl"),
        (("adapter.gguf", "texts.jsonl"), "this is a LoRA adapter"),
        (("base.gguf", "texts.jsonl", "--seq-len", "65"), "was made for 64 tokens"),
        (("base.gguf", "texts.jsonl", "-o", "nowhere/im.gguf"), "nowhere/im.gguf: the folder nowhere does not exist"),
        (("base.gguf", "texts.jsonl", "-o", "base.gguf", "--overwrite"), "base.gguf: this is the file that is read"),
        (("base.gguf", "texts.jsonl", "-o", "texts.jsonl", "--overwrite"), "texts.jsonl: this is the file that is"),
        (("base.gguf", "texts.jsonl", "-o", "texts.jsonl"), "texts.jsonl: this is the file that is read"),
        (("base.gguf", "texts.jsonl", "--rows", "0"), "--rows"),
    ],
)
def test_what_cannot_be_is_said_in_a_line(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    kind = [("general.type", MetadataValue.string("adapter"))]
    write_gguf(folder / "adapter.gguf", kind, [encode_tensor("w.lora_a", np.ones((2, 4), np.float32), "F32")])
    before = sorted(folder.iterdir())
    done = call("calibrate", *arguments, "--threads", "1", cwd=folder)
    assert done.code == 2
    assert message in done.err
    assert "Traceback" not in done.err
    assert sorted(folder.iterdir()) == before


def test_options_say_how_the_data_are_read(folder: Path) -> None:
    turns = [{"role": "user", "content": "red ball"}, {"role": "assistant", "content": "blue hat"}]
    rows = [{"talk": turns, "body": "old key", "other": "green lamp"}] * 3
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sums = {}
    for name, options in {
        "body": ["--columns", "text=body"],
        "other": ["--columns", "text=other"],
        "talk": ["--columns", "messages=talk", "--task", "chat", "--chat-template", "chatml"],
    }.items():
        done = call(
            "calibrate", "base.gguf", "rows.jsonl", "-o", f"{name}.gguf", "--threads", "1", *options, cwd=folder
        )
        assert done.code == 0, done.err
        sums[name] = read_imatrix(folder / f"{name}.gguf").entries["blk.0.attn_q.weight"].sums.tobytes()
    assert len(set(sums.values())) == 3


def test_what_is_wrong_with_the_data_is_said_in_options(folder: Path) -> None:
    done = call("calibrate", "base.gguf", "texts.jsonl", "--columns", "text=body", cwd=folder)
    assert (done.code, "--columns text: there is no column 'body'" in done.err) == (2, True)
    done = call("calibrate", "base.gguf", "texts.jsonl", "--seq-len", "4096", cwd=folder)
    assert (done.code, "--seq-len is 4096, but base.gguf was made for" in done.err) == (2, True)


def test_a_kept_importance_gives_the_tensors_of_a_measured_one(folder: Path) -> None:
    measured, kept = ["--calibrate", "texts.jsonl", "--rows", "3"], ["--imatrix", "im.gguf"]
    for arguments in (
        ["calibrate", "base.gguf", "texts.jsonl", "-o", "im.gguf", "--rows", "3"],
        ["quantize", "base.gguf", "-o", "measured.gguf", "--type", "q4_0", *measured],
        ["quantize", "base.gguf", "-o", "kept.gguf", "--type", "q4_0", *kept],
        ["quantize", "base.gguf", "-o", "plain.gguf", "--type", "q4_0"],
    ):
        done = call(*arguments, "--threads", "1", cwd=folder)
        assert done.code == 0, done.err
    raw = {}
    for name in ("measured", "kept", "plain"):
        with GGUFFile.open(folder / f"{name}.gguf") as file:
            raw[name] = {tensor: file.raw(tensor).tobytes() for tensor in file.tensors}
    assert raw["measured"] == raw["kept"] != raw["plain"]

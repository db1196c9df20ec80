"""``entrenar eval``: a table for people, one JSON object for scripts, and mistakes in the words of the options."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from entrenar_cli.commands.eval import unescaped
from entrenar_cli.main import main
from tests.stages.tiny_base import write_base, write_data

TABLE = {"question": ["Ada saw a", "Bo saw a"], "choices": [["red ball.", "old key."]] * 2, "answer": ["A", "B"]}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_base(tmp_path / "base.gguf")
    write_data(tmp_path)
    pq.write_table(pa.table(TABLE), tmp_path / "choices.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main(["eval", *arguments, "--threads", "1"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_one_model_shows_its_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = call("base.gguf", "--data", "train.parquet", capsys=capsys)
    assert code == 0
    assert out.splitlines()[0] == "base.gguf: perplexity on train.parquet"
    assert "perplexity" in out
    assert "task: perplexity" in err


def test_json_is_one_document(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("base.gguf", "--data", "choices.parquet", "--template", r"{question}\n->", "--json", "-o", "out.json")
    code, out, err = call(*arguments, capsys=capsys)
    document = json.loads(out)
    assert (code, err) == (0, "")
    assert document["task"] == "multiple-choice"
    assert document["models"][0]["result"]["questions"] == 2
    assert json.loads((folder / "out.json").read_text()) == document


def test_models_side_by_side_differ_from_the_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_base(folder / "small.gguf", type_name="Q4_0")
    code, out, _ = call("base.gguf", "--data", "train.parquet", "--compare", "small.gguf", capsys=capsys)
    assert code == 0
    title, head, first, second, *_ = out.splitlines()
    assert title == "perplexity on train.parquet"
    assert head.split()[:4] == ["model", "size", "bits", "perplexity"]
    assert "%)" not in first
    assert "%)" in second


def test_a_reference_adds_its_figures(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_base(folder / "small.gguf", type_name="Q8_0")
    (folder / "text.txt").write_text("Ada saw a red ball. Bo saw an old key. " * 20)
    arguments = ("small.gguf", "--data", "text.txt", "--ctx", "16", "--chunks", "2", "--reference", "base.gguf")
    code, out, _ = call(*arguments, capsys=capsys)
    assert code == 0
    facts, beside, percentiles = out.split("\n\n")
    assert "2 windows of 16 tokens" in facts
    assert beside.startswith("beside base.gguf") and "KL divergence" in beside
    assert percentiles.split()[:3] == ["percentile", "KL", "Δp"] and len(percentiles.splitlines()) == 14
    _, out, _ = call(*arguments, "--arithmetic", "llama.cpp", "--json", capsys=capsys)
    found = json.loads(out)["models"][0]["result"]
    assert found["arithmetic"] == "llama.cpp"
    assert found["divergence"]["reference"] == "base.gguf"
    assert found["divergence"]["kl_percentiles"]["50"] >= 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["base.gguf", "other.gguf"], "2 models are named"),
        (["base.gguf", "base.gguf", "--compare"], "named twice"),
        (["base.gguf", "--task", "multiple_choices"], "did you mean multiple-choice?"),
        (["base.gguf", "--windows", "llama"], "--windows: there is no 'llama'"),
        (["base.gguf", "--arithmetic", "int8"], "known are exact, llama.cpp"),
        (["base.gguf", "--columns", "text"], "--columns: 'text' is no ROLE=COLUMN"),
        (["base.gguf", "--columns", "text=prompts"], "--columns text: there is no column 'prompts'"),
        (["base.gguf", "--template", "{question", "--task", "multiple-choice"], "--template: the template is broken"),
        (["base.gguf", "--task", "multiple-choice"], "--columns choices=COLUMN"),
    ],
)
def test_mistakes_speak_of_options(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    code, out, err = call(*arguments, "--data", "train.parquet", capsys=capsys)
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(("text", "meant"), [(r"a\nb", "a\nb"), (r"\t", "\t"), (r"\\n", r"\n"), ("a b", "a b")])
def test_escapes_of_a_shell_are_understood(text: str, meant: str) -> None:
    assert unescaped(text) == meant

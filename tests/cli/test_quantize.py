"""``entrenar quantize`` as a person types it: options, a YAML file, what is shown, and how mistakes end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from entrenar_cli.main import main
from entrenar_cli.quantize_summary import progress_text, quantized_facts
from entrenar_core.events import Quantized, Quantizing
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.quant.imatrix import ImportanceEntry, ImportanceMatrix, write_imatrix
from tests.e2e.command import call
from tests.stages.quantized import types_of, write_wide


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_wide(tmp_path / "model.gguf")
    return tmp_path


def test_a_model_is_written_and_the_end_says_how_it_went(folder: Path) -> None:
    done = call("quantize", "model.gguf", "-o", "out.gguf", "--type", "q4_k_m", cwd=folder)
    assert (done.code, done.out) == (0, "")
    for text in ("saved model out.gguf", "bits a weight", "Q4_K", "Q6_K", "peak memory"):
        assert text in done.err
    assert types_of(folder / "out.gguf")["blk.0.attn_q.weight"] == "Q4_K"


def test_options_reach_the_stage(folder: Path) -> None:
    options = ["--type", "q4_0", "--output-type", "f16", "--embedding-type", "q8_0", "--tensor-type", "attn_v=q5_1"]
    done = call("quantize", "model.gguf", "-o", "o.gguf", *options, "--tensor-type", "ffn=q8_0", cwd=folder)
    assert done.code == 0, done.err
    found = types_of(folder / "o.gguf")
    assert found["output.weight"] == "F16"
    assert found["token_embd.weight"] == found["blk.1.ffn_up.weight"] == "Q8_0"
    assert found["blk.0.attn_v.weight"] == "Q5_1"
    assert found["blk.0.attn_q.weight"] == "Q4_0"


@pytest.mark.parametrize(
    ("options", "kind"),
    [(["--bits", "4"], "Q4_0"), (["--bits", "4", "--asymmetric"], "Q4_1"), (["--bits", "8"], "Q8_0")],
)
def test_bits_stand_for_a_type(options: list[str], kind: str, folder: Path) -> None:
    assert call("quantize", "model.gguf", "-o", "o.gguf", "--pure", *options, cwd=folder).code == 0
    assert set(types_of(folder / "o.gguf").values()) == {kind, "F32"}


def test_a_yaml_file_does_the_same_and_options_lie_over_it(folder: Path) -> None:
    (folder / "q.yaml").write_text(
        "model: {path: model.gguf}\nquantize: {type: q8_0}\noutput: {path: out.gguf, report: errors.json}\n"
    )
    assert call("quantize", "q.yaml", cwd=folder).code == 0
    assert types_of(folder / "out.gguf")["output.weight"] == "Q8_0"
    assert json.loads((folder / "errors.json").read_text())["total"]["sqnr_db"] > 30
    over = ("quantize", "q.yaml", "--type", "q4_0", "--set", "output.path=set.gguf", "--pure")
    kept = call(*over, cwd=folder)
    assert (kept.code, "errors.json: the file is there already" in kept.err) == (2, True)
    assert "replace it with --overwrite" in kept.err
    done = call(*over, "--report", "others.json", cwd=folder)
    assert done.code == 0, done.err
    assert types_of(folder / "set.gguf")["output.weight"] == "Q4_0"


def test_a_dry_run_writes_nothing_and_knows_the_exact_size(folder: Path) -> None:
    plan = call("quantize", "model.gguf", "-o", "out.gguf", "--type", "q4_k_m", "--dry-run", cwd=folder)
    assert plan.code == 0
    assert not (folder / "out.gguf").exists()
    document = call("quantize", "model.gguf", "-o", "out.gguf", "--type", "q4_k_m", "--dry-run", "--json", cwd=folder)
    found = document.document()
    assert list(found) == [
        "source", "output", "source_bytes", "n_bytes", "bits_per_weight", "types", "tensors", "warnings",
    ]  # fmt: skip
    assert call("quantize", "model.gguf", "-o", "out.gguf", "--type", "q4_k_m", cwd=folder).code == 0
    size = (folder / "out.gguf").stat().st_size
    assert found["n_bytes"] == size
    assert f"{size:,} bytes" in plan.out
    assert {one["name"]: one["type"] for one in found["tensors"]} == types_of(folder / "out.gguf")
    assert sum(one["tensors"] for one in found["types"]) == 15


def test_a_dry_run_needs_no_file_to_write_but_all_that_is_read(folder: Path) -> None:
    options = ["quantize", "model.gguf", "--type", "q4_k_m", "--dry-run"]
    done = call(*options, cwd=folder)
    assert done.code == 0, done.err
    assert "not named (nothing is written in a dry run)" in done.out
    assert call(*options, "--json", cwd=folder).document()["output"] is None
    missing = call(*options, "--calibrate", "none.jsonl", cwd=folder)
    assert missing.code == 2
    assert "none.jsonl: the file does not exist" in missing.err


def test_a_dry_run_of_a_target_size_shows_the_types_that_would_be_chosen(folder: Path) -> None:
    options = ["-o", "out.gguf", "--target-size", "20KiB"]
    found = call("quantize", "model.gguf", *options, "--dry-run", "--json", cwd=folder).document()
    assert call("quantize", "model.gguf", *options, cwd=folder).code == 0
    assert found["n_bytes"] == (folder / "out.gguf").stat().st_size <= 20 * 1024
    assert {one["name"]: one["type"] for one in found["tensors"]} == types_of(folder / "out.gguf")


def test_the_errors_of_all_tensors_are_shown(folder: Path) -> None:
    done = call("quantize", "model.gguf", "-o", "out.gguf", "--type", "q8_0", "--show-report", cwd=folder)
    lines = done.out.splitlines()
    assert "SQNR" in lines[1]
    assert any(line.split()[0] == "blk.0.attn_q.weight" and line.rstrip().endswith("dB") for line in lines[2:])
    assert any("output_norm.weight" in line and "copied" in line for line in lines)
    assert "all rounded" in lines[-1]


def test_for_scripts_every_line_is_json(folder: Path) -> None:
    done = call("quantize", "model.gguf", "-o", "o.gguf", "--type", "q8_0", "--json", "--show-report", cwd=folder)
    assert done.code == 0
    *events, report = done.events()
    working = ("compiling", "quantizing")
    assert [event["event"] for event in events if event["event"] not in working] == ["saved", "quantized"]
    assert events[-1]["types"] == {"Q8_0": 14, "F32": 1}
    assert len(report["tensors"]) == 15


BAD: dict[str, tuple[list[str], str]] = {
    "no such file": (["absent.gguf", "-o", "o.gguf", "--type", "q4_0"], "there is no such file"),
    "a folder": ([".", "-o", "o.gguf", "--type", "q4_0"], "this is a folder"),
    "parquet": (["data.parquet", "-o", "o.gguf", "--type", "q4_0"], "this is a parquet file"),
    "no output": (["model.gguf", "--type", "q4_0"], "no file to write is named"),
    "no output in the file": (["only.yaml", "--type", "q4_0"], "output.path: no file to write is named"),
    "no type": (["model.gguf", "-o", "o.gguf"], "--type q4_k_m"),
    "unknown type": (["model.gguf", "-o", "o.gguf", "--type", "q4_km"], "q4_k_m"),
    "two types": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--bits", "4"], "cannot go together"),
    "unknown tensor type": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--output-type", "q9"],
        "--output-type: value",
    ),
    "pattern without a type": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--tensor-type", "x"], "PATTERN=TYPE"),
    "bad pattern": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--tensor-type", "(=q8_0"], "regular expression"),
    "pattern of nothing": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--tensor-type", "nope=q8_0"],
        "finds no matrix",
    ),
    "impossible size": (["model.gguf", "-o", "o.gguf", "--target-size", "1KB"], "smallest possible file"),
    "no size": (["model.gguf", "-o", "o.gguf", "--target-size", "big"], "a size such as"),
    "memory": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--memory", "1MiB"], "too little"),
    "the input itself": (["model.gguf", "-o", "model.gguf", "--type", "q4_0", "--overwrite"], "file that is read"),
    "the importance itself": (
        ["model.gguf", "-o", "there.gguf", "--type", "q4_0", "--imatrix", "there.gguf", "--overwrite"],
        "file that is read",
    ),
    "output is there": (["model.gguf", "-o", "there.gguf", "--type", "q4_0"], "--overwrite"),
    "no folder": (["model.gguf", "-o", "no/o.gguf", "--type", "q4_0"], "does not exist"),
    "offset in q8": (["model.gguf", "-o", "o.gguf", "--bits", "8", "--asymmetric"], "no 8-bit type with an offset"),
    "granularity of k": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_k_m", "--granularity", "per_channel"],
        "scales of its own",
    ),
    "no imatrix": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--imatrix", "absent.gguf"], "no such file"),
    "a model as imatrix": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--imatrix", "model.gguf"],
        "no importance matrix",
    ),
    "bad override": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--set", "pure"], "section.key=value"),
    "unknown key": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--set", "quantize.pur=true"], "quantize.pure"),
    "no yaml": (["absent.yaml"], "absent.yaml"),
    "a training run": (["train.yaml"], "entrenar train train.yaml"),
    "no memory": (["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--memory", "0"], '--memory: value "0"; must be a'),
    "rows of no data": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--rows", "4"],
        "set --calibrate or --imatrix",
    ),
    "data and importance": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--imatrix", "i.gguf", "--seq-len", "8"],
        "--seq-len: cannot go together with --imatrix, which is measured already; remove one",
    ),
    "column": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--calibrate", "x", "--columns", "text"],
        "--columns: 'text' is no ROLE=COLUMN",
    ),
    "role": (
        ["model.gguf", "-o", "o.gguf", "--type", "q4_0", "--calibrate", "x", "--columns", "texts=a"],
        "--columns texts: is not a role that a column can have; did you mean text?",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_end_with_2_and_say_what_to_do(name: str, folder: Path) -> None:
    (folder / "data.parquet").write_bytes(b"PAR1 and more")
    (folder / "there.gguf").write_bytes(b"old")
    (folder / "only.yaml").write_text("model: {path: model.gguf}\n")
    (folder / "train.yaml").write_text("model: {path: model.gguf}\ndata: {train: a.parquet}\n")
    before = sorted(path.name for path in folder.iterdir())
    arguments, says = BAD[name]
    done = call("quantize", *arguments, cwd=folder)
    assert (done.code, done.out) == (2, ""), done.err
    assert says in done.err
    assert "Traceback" not in done.err
    assert sorted(path.name for path in folder.iterdir()) == before
    (event,) = call("quantize", *arguments, "--json", cwd=folder).events()
    assert (event["event"], event["exit_code"]) == ("error", 2)


def test_fall_backs_are_counted_in_a_dry_run(tmp_path: Path) -> None:
    write_wide(tmp_path / "model.gguf", columns=288)
    done = call("quantize", "model.gguf", "-o", "o.gguf", "--type", "q4_k_s", "--dry-run", cwd=tmp_path)
    assert "get Q5_0 instead of Q4_K" in done.out


def test_the_help_is_one_screen_of_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["quantize", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--type", "--target-size", "--tensor-type", "--imatrix", "--memory", "--dry-run", "--show-report"):
        assert option in text


def test_progress_in_words() -> None:
    event = Quantizing(3 << 30, 4 << 30, 41, 201, "blk.3.attn_q.weight")
    assert progress_text(event, 2.0) == "MiB  tensor 42 of 201  1.5 GiB/s"
    assert progress_text(event, 0.0) == "MiB  tensor 42 of 201"


def test_the_summary_names_the_error_where_it_was_measured() -> None:
    summary = Quantized(Path("o.gguf"), 4 << 20, 1 << 20, 4.5, {"Q4_0": 2}, 2.0, 99 << 20, 0.00123, 23.04)
    facts = dict(quantized_facts(summary))
    assert facts["size"] == "4.0 MiB to 1.0 MiB (25 %), 4.50 bits a weight"
    assert facts["rounding error"] == "RMSE 0.00123, 23.0 dB above the noise"
    assert facts["time"] == "2.0 s (2.0 MiB/s), peak memory 99.0 MiB"


def test_an_importance_matrix_leaves_its_name_in_the_file(folder: Path) -> None:
    sums = np.random.default_rng(0).uniform(0.1, 9, (1, 256)).astype(np.float32)
    names = [name for name in types_of(folder / "model.gguf") if name.startswith("blk")]
    entries = {name: ImportanceEntry(sums, np.ones(1, np.float32)) for name in names}
    write_imatrix(folder / "imatrix.gguf", ImportanceMatrix(entries, ("wiki.txt",), 7, 512))
    options = ["--type", "q4_k_m", "--imatrix", "imatrix.gguf", "--report", "r.json"]
    done = call("quantize", "model.gguf", "-o", "o.gguf", *options, cwd=folder)
    assert done.code == 0, done.err
    with GGUFFile.open(folder / "o.gguf") as file:
        found = {key: value for key, value in file.metadata.items() if key.startswith("quantize.")}
    assert found == {
        "quantize.imatrix.file": "imatrix.gguf",
        "quantize.imatrix.dataset": "wiki.txt",
        "quantize.imatrix.entries_count": len(names),
        "quantize.imatrix.chunks_count": 7,
    }
    tensors = {one["name"]: one for one in json.loads((folder / "r.json").read_text())["tensors"]}
    assert tensors["blk.0.attn_q.weight"]["weighted_rmse"] > 0
    assert tensors["output.weight"]["weighted_rmse"] is None
    assert call("quantize", "model.gguf", "-o", "plain.gguf", "--type", "q4_k_m", cwd=folder).code == 0
    with GGUFFile.open(folder / "o.gguf") as weighed, GGUFFile.open(folder / "plain.gguf") as plain:
        name = "blk.1.attn_q.weight"
        assert weighed.raw(name).tobytes() != plain.raw(name).tobytes()

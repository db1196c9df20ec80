"""``entrenar merge`` as a person types it: options, a YAML file of either kind, what is shown, and how mistakes end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from entrenar_cli.main import main
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.model.load import read_spec
from tests.e2e.command import call
from tests.stages.merge_inputs import write_family, write_relative
from tests.stages.quantized import types_of
from tests.stages.tiny_base import base_spec, tokenizer_entries, write_base

UP = "blk.1.ffn_up.weight"
TIES = ("a.gguf", "b.gguf", "--base", "base.gguf", "--method", "ties")


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that nobody changes."""
    folder = tmp_path_factory.mktemp("models")
    write_family(folder, "a", "b", "c")
    return folder


@pytest.fixture
def folder(family: Path, tmp_path: Path) -> Path:
    for path in family.iterdir():
        (tmp_path / path.name).symlink_to(path)
    return tmp_path


def tensor(path: Path, name: str = UP) -> np.ndarray:
    with GGUFFile.open(path) as file:
        return file.load(name)


def test_a_model_is_written_and_the_end_says_how_it_went(folder: Path) -> None:
    done = call("merge", *TIES, "--density", "0.5", "-o", "out.gguf", cwd=folder)
    assert (done.code, done.out) == (0, "")
    for text in ("saved model out.gguf", "merge: ties of 2 models over a base", "types: F32 21", "peak memory"):
        assert text in done.err


def test_options_reach_the_method(folder: Path) -> None:
    base, a, b = (tensor(folder / f"{name}.gguf") for name in ("base", "a", "b"))
    options = ("--weight", "2", "--weight", "-1", "--lambda", "0.5", "--no-normalize")
    done = call("merge", *TIES[:4], "--method", "task_arithmetic", *options, "-o", "sum.gguf", cwd=folder)
    assert done.code == 0, done.err
    np.testing.assert_allclose(tensor(folder / "sum.gguf"), base + 0.5 * (2 * (a - base) - (b - base)), atol=1e-6)
    done = call("merge", "a.gguf", "b.gguf", "-m", "linear", "--normalize", "--weight", "3", "-o", "m.gguf", cwd=folder)
    assert done.code == 0, done.err
    np.testing.assert_allclose(tensor(folder / "m.gguf"), (a + b) / 2, atol=1e-6)


def test_seeds_and_types_reach_the_stage(folder: Path) -> None:
    written = []
    for seed, name in (("1", "x"), ("1", "y"), ("2", "z")):
        options = ("--method", "dare_ties", "--density", "0.5", "--seed", seed, "-o", f"{name}.gguf", "--type", "q8_0")
        done = call("merge", *TIES[:4], *options, "--threads", "1" if name == "x" else "2", cwd=folder)
        assert done.code == 0, done.err
        written.append(tensor(folder / f"{name}.gguf"))
    assert types_of(folder / "x.gguf")[UP] == "Q8_0"
    np.testing.assert_array_equal(written[0], written[1])
    assert (written[0] != written[2]).any()


def test_a_task_vector_is_the_change(folder: Path) -> None:
    done = call("merge", *TIES[:4], "--method", "task_arithmetic", "--task-vector", "-o", "v.gguf", cwd=folder)
    assert done.code == 0, done.err
    base, a, b = (tensor(folder / f"{name}.gguf") for name in ("base", "a", "b"))
    np.testing.assert_allclose(tensor(folder / "v.gguf"), (a - base) + (b - base), atol=1e-6)


def test_a_yaml_file_does_the_same_and_options_lie_over_it(folder: Path) -> None:
    (folder / "m.yaml").write_text(
        "merge: {method: slerp, models: [a.gguf, b.gguf], t: 0}\noutput: {path: out.gguf, report: r.json}\n"
    )
    assert call("merge", "m.yaml", cwd=folder).code == 0
    np.testing.assert_array_equal(tensor(folder / "out.gguf"), tensor(folder / "a.gguf"))
    assert len(json.loads((folder / "r.json").read_text())["tensors"]) == 21
    over = ("--t", "1", "--set", "output.path=set.gguf", "--overwrite")
    assert call("merge", "m.yaml", *over, cwd=folder).code == 0
    np.testing.assert_allclose(tensor(folder / "set.gguf"), tensor(folder / "b.gguf"), atol=1e-6)


def test_a_file_of_mergekit_runs_as_it_is(folder: Path) -> None:
    (folder / "kit.yaml").write_text(
        "models:\n  - model: a.gguf\n    parameters: {weight: 1}\n  - model: b.gguf\n    parameters: {weight: 3}\n"
        "merge_method: linear\ndtype: float16\nparameters: {int8_mask: true}\n"
    )
    done = call("merge", "kit.yaml", "-o", "out.gguf", cwd=folder)
    assert done.code == 0, done.err
    assert "parameters.int8_mask has no effect: masks take no memory here" in done.err
    assert types_of(folder / "out.gguf")[UP] == "F16"
    expected = 0.25 * tensor(folder / "a.gguf") + 0.75 * tensor(folder / "b.gguf")
    np.testing.assert_allclose(tensor(folder / "out.gguf"), expected, atol=1e-3)


def test_layers_are_stacked(folder: Path) -> None:
    (folder / "tall.yaml").write_text(
        "merge:\n  method: passthrough\n  slices:\n    - sources: [{path: a.gguf, layers: [0, 2]}]\n"
        "    - sources: [{path: b.gguf, layers: [1, 2]}]\noutput: {path: tall.gguf}\n"
    )
    assert call("merge", "tall.yaml", cwd=folder).code == 0
    np.testing.assert_array_equal(tensor(folder / "tall.gguf", "blk.2.ffn_up.weight"), tensor(folder / "b.gguf"))
    with GGUFFile.open(folder / "tall.gguf") as file:
        assert read_spec(file).num_layers == 3


def test_a_dry_run_writes_nothing_and_shows_what_each_part_is_made_of(folder: Path) -> None:
    options = ("--density", "0.2", "--weight", "0.5", "--weight", "0.25", "--dry-run")
    plan = call("merge", *TIES, *options, cwd=folder)
    assert plan.code == 0, plan.err
    lines = [" ".join(line.split()) for line in plan.out.splitlines()]
    assert "output not named (nothing is written in a dry run)" in lines
    parameters = "weight 0.5 / 0.25, density 0.2, lambda 1, normalize true, rescale none"
    assert f"layers 0 to 1 18 ties of a.gguf, b.gguf over base.gguf {parameters}" in lines
    assert f"other tensors 3 ties of a.gguf, b.gguf over base.gguf {parameters}" in lines
    named = (*TIES, *options, "-o", "out.gguf")
    document = call("merge", *named, "--json", cwd=folder).document()
    assert list(document) == [
        "method", "models", "output", "source_bytes", "n_bytes", "types", "task_vector", "vocabulary", "tensors",
        "warnings",
    ]  # fmt: skip
    first = document["tensors"][0]
    assert first["inputs"] == [{"model": f"{one}.gguf", "tensor": first["name"]} for one in "ab"]
    assert first["base"] == {"model": "base.gguf", "tensor": first["name"]}
    assert first["parameters"]["weight"] == [0.5, 0.25]
    assert not (folder / "out.gguf").exists()
    assert call("merge", *named[:-3], "-o", "out.gguf", cwd=folder).code == 0
    assert document["n_bytes"] == (folder / "out.gguf").stat().st_size


def test_a_dry_run_says_what_becomes_of_tokens(folder: Path) -> None:
    tokens = list(dict(tokenizer_entries())["tokenizer.ggml.tokens"].value)
    others = MetadataValue.array(ValueType.STRING, [*tokens[:-1], "zz"])
    write_relative(folder / "d.gguf", extra=[("tokenizer.ggml.tokens", others)])
    refused = call("merge", "a.gguf", "d.gguf", "-m", "linear", "--dry-run", cwd=folder)
    assert (refused.code, "d.gguf: the tokens differ" in refused.err) == (2, True)
    assert "hint: --tokenizer union (all tokens), or base" in refused.err
    plan = call("merge", "a.gguf", "d.gguf", "-m", "linear", "--tokenizer", "union", "--dry-run", cwd=folder)
    lines = [" ".join(line.split()) for line in plan.out.splitlines()]
    start = lines.index("tokens")
    assert lines[start + 1 : start + 4] == [
        "result 301 (union)", "a.gguf 300: 300 mapped, 1 averaged", "d.gguf 300: 300 mapped, 1 from the base",
    ]  # fmt: skip
    assert "tokens" not in call("merge", "a.gguf", "b.gguf", "-m", "linear", "--dry-run", cwd=folder).out


def test_the_report_of_all_tensors_is_shown(folder: Path) -> None:
    done = call("merge", *TIES, "-o", "out.gguf", "--show-report", cwd=folder)
    lines = done.out.splitlines()
    assert lines[1].split() == ["tensor", "norms", "merged", "agree", "kept", "cosines"]
    assert len(lines) == 2 + 21
    assert any(line.split()[0] == UP and "%" in line for line in lines)


def test_for_scripts_every_line_is_json(folder: Path) -> None:
    done = call("merge", *TIES, "-o", "out.gguf", "--json", "--show-report", cwd=folder)
    *events, report = done.events()
    assert [one["event"] for one in events if one["event"] not in ("compiling", "merging")] == ["saved", "merged"]
    assert (events[-1]["method"], events[-1]["models"], events[-1]["over_base"]) == ("ties", 2, True)
    assert len(report["tensors"]) == 21


def _wide(folder: Path) -> None:
    write_base(folder / "wide.gguf", base_spec(intermediate_size=96))


def _other_architecture(folder: Path) -> None:
    write_base(folder / "qwen.gguf", base_spec("qwen2"))


def _other_angles(folder: Path) -> None:
    write_base(folder / "angles.gguf", base_spec(rope_theta=500_000.0))


def _nan(folder: Path) -> None:
    values = tensor(folder / "a.gguf")
    values[3, 5] = np.nan
    write_relative(folder / "nan.gguf", replaced={UP: values})


def _nothing(folder: Path) -> None:
    del folder


SLICES = "merge: {{method: passthrough, slices: {}}}\n"

BAD: dict[str, tuple[list[str], str, Callable[[Path], None]]] = {
    "no models": ([], "no models are named", _nothing),
    "one model": (["a.gguf", "--method", "linear"], "MODEL: linear takes at least 2 models, and 1 is named", _nothing),
    "no method": (["a.gguf", "b.gguf"], "no method is named", _nothing),
    "no base": (["a.gguf", "b.gguf", "--method", "ties"], "ties works on what the models changed", _nothing),
    "only the base": (["base.gguf", *TIES[2:]], "ties takes at least 1 model beside the base", _nothing),
    "unknown method": (["a.gguf", "b.gguf", "--method", "tie"], "did you mean ties?", _nothing),
    "three models for slerp": (
        ["a.gguf", "b.gguf", "c.gguf", "--method", "slerp"],
        "slerp takes 2 models, and 3 are named",
        _nothing,
    ),
    "a parameter of another method": (
        ["a.gguf", "b.gguf", "--method", "linear", "--density", "0.5"],
        "--density: has no meaning for linear; remove it",
        _nothing,
    ),
    "a density above one": ([*TIES, "--density", "1.5"], "--density: value 1.5; must be a number greater", _nothing),
    "too many weights": ([*TIES, *["--weight", "1"] * 3], "--weight: is given 3 times, and there are 2", _nothing),
    "t beyond the models": (["a.gguf", "b.gguf", "-m", "slerp", "--t", "1.5"], "--t: is 1.5 for", _nothing),
    "an adapter without a base": (
        ["a.gguf", "-m", "linear", "--adapter", "lora"],
        "--adapter: needs a base model",
        _nothing,
    ),
    "a missing adapter": (["a.gguf", "b.gguf+lora", "-m", "linear"], "lora", _nothing),
    "no such file": (["a.gguf", "absent.gguf", "-m", "linear"], "absent.gguf: there is no such file", _nothing),
    "a name of the hub": (["org/model", "b.gguf", "-m", "linear"], "hf download org/model", _nothing),
    "other shapes": (["wide.gguf", *TIES], "wide.gguf: the tensor blk.0.ffn_gate.weight has shape", _wide),
    "another architecture": (["qwen.gguf", *TIES], "qwen.gguf: the architecture is qwen2", _other_architecture),
    "other angles": (["angles.gguf", *TIES], "rope.freq_base is 500000.0, in base.gguf", _other_angles),
    "not a number": (["nan.gguf", *TIES], f"nan.gguf: tensor {UP}", _nan),
    "layers that are not there": (["beyond.yaml"], "there are no layers [1, 3] in a.gguf: it has 2", _nothing),
    "layers backwards": (["backwards.yaml"], "must be layers in their order, and [2, 1] has none", _nothing),
    "slices that contain themselves": (["cycle.yaml"], "an alias contains itself", _nothing),
    "a file that includes itself": (["includes.yaml"], "the files include each other", _nothing),
    "the input itself": ([*TIES, "-o", "a.gguf", "--overwrite"], "this is the file that is read", _nothing),
    "no output": ([*TIES], "-o: no file to write is named", _nothing),
    "output is there": ([*TIES, "-o", "there.gguf"], "replace it with --overwrite", _nothing),
    "no folder": ([*TIES, "-o", "no/out.gguf"], "the folder no does not exist", _nothing),
    "too little memory": ([*TIES, "--memory", "1MiB"], "too little", _nothing),
    "blocks in safetensors": ([*TIES, "--format", "safetensors", "--type", "q4_0"], "is a type of GGUF", _nothing),
    "a configuration beside models": (["m.yaml", "a.gguf"], "cannot stand beside models", _nothing),
    "a training run": (["train.yaml"], "entrenar train train.yaml", _nothing),
    "an unknown key": ([*TIES, "--set", "merge.gama=0.1"], "did you mean merge.gamma?", _nothing),
    "a wrong override": ([*TIES, "--set", "merge"], "section.key=value", _nothing),
}


@pytest.mark.parametrize("name", BAD)
def test_mistakes_end_with_2_say_what_to_do_and_leave_nothing(name: str, folder: Path) -> None:
    arguments, says, prepare = BAD[name]
    prepare(folder)
    (folder / "there.gguf").write_bytes(b"old")
    (folder / "beyond.yaml").write_text(SLICES.format("[{sources: [{path: a.gguf, layers: [1, 3]}]}]"))
    (folder / "backwards.yaml").write_text(SLICES.format("[{sources: [{path: a.gguf, layers: [2, 1]}]}]"))
    (folder / "cycle.yaml").write_text(SLICES.format("&all [*all]"))
    (folder / "includes.yaml").write_text("include: includes.yaml\n")
    (folder / "train.yaml").write_text("model: {path: a.gguf}\ndata: {train: a.parquet}\nmerge: {method: ties}\n")
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    named = arguments if "-o" in arguments or name == "no output" else [*arguments, "-o", "out.gguf"]
    done = call("merge", *named, cwd=folder)
    assert (done.code, done.out) == (2, ""), done.err
    assert says in done.err
    assert "Traceback" not in done.err
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
    event = call("merge", *named, "--json", cwd=folder).events()[-1]
    assert (event["event"], event["exit_code"]) == ("error", 2)


def test_the_help_is_about_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", "--help"]) == 0
    text = capsys.readouterr().out
    for option in (
        "MODEL...",
        "--base",
        "--method",
        "--density",
        "--weight",
        "--adapter",
        "--dry-run",
        "--show-report",
    ):
        assert option in text

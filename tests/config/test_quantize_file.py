"""The configuration of `entrenar quantize`: options, a file, and options over a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.quantize_file import Option, QuantizeConfig, calibration_of, quantize_config

MODEL = Option("MODEL", ("model", "path"), "a.gguf")
TO = Option("-o", ("output", "path"), "b.gguf")
TYPE = Option("--type", ("quantize", "type"), "Q4_K_M")


def problems(file: Path | None, *options: Option) -> list[str]:
    with pytest.raises(ConfigProblems) as caught:
        quantize_config(file, options)
    return [str(problem) for problem in caught.value.problems]


def test_options_alone_make_a_configuration() -> None:
    config = quantize_config(None, [MODEL, TO, TYPE])
    assert (config.model.path, config.output.path, config.quantize.mix) == ("a.gguf", "b.gguf", "q4_k_m")
    assert (config.quantize.stage, config.run.memory, config.run.threads) == ("output", 512 * 2**20, None)


def test_options_lie_over_a_file(tmp_path: Path) -> None:
    file = tmp_path / "quantize.yaml"
    file.write_text(
        "model: {path: a.gguf}\nquantize: {type: q8_0, pure: true}\noutput: {path: c.gguf}\nrun: {memory: 64MiB}\n"
    )
    plain = quantize_config(file, [])
    assert (plain.quantize.mix, plain.output.path, plain.run.memory) == ("q8_0", "c.gguf", 2**26)
    changed = quantize_config(file, [TYPE, TO])
    assert (changed.quantize.mix, changed.quantize.pure, changed.output.path) == ("q4_k_m", True, "b.gguf")


def test_messages_name_the_option_or_the_line(tmp_path: Path) -> None:
    wrong = Option("--type", ("quantize", "type"), "q4_m")
    [found] = problems(None, MODEL, TO, wrong)
    assert found.startswith('--type: value "q4_m"; must be one of q4_0')
    file = tmp_path / "quantize.yaml"
    file.write_text("model: {path: a.gguf}\nquantize: {bit: 4, type: q8_0}\noutput: {path: c.gguf}\n")
    [found] = problems(file)
    assert "quantize.yaml:2:12: quantize.bit: unknown key; did you mean quantize.bits?" in found


def test_what_is_missing_is_named() -> None:
    [found] = problems(None, MODEL)
    assert "quantize: required key is missing" in found
    assert quantize_config(None, [MODEL, TYPE]).output.path is None, "enough for a dry run"


def test_stages_of_training_are_refused() -> None:
    [found] = problems(None, MODEL, TO, TYPE, Option("--set", ("quantize", "stage"), "qat"))
    assert "is for training" in found


def test_calibration_needs_something_to_measure() -> None:
    method = Option("--calibration-method", ("quantize", "calibration", "method"), "minmax")
    [found] = problems(None, MODEL, TO, TYPE, method)
    assert "needs texts or an importance matrix" in found
    data = Option("--calibrate", ("quantize", "calibration", "data"), "c.parquet")
    assert quantize_config(None, [MODEL, TO, TYPE, method, data]).quantize.calibration is not None


def test_a_configuration_can_be_built_in_python() -> None:
    content = {"model": {"path": "a"}, "quantize": {"bits": 4}, "output": {"path": "b"}}
    assert QuantizeConfig.model_validate(content).quantize.stage == "output"


BITS = Option("--bits", ("quantize", "bits"), 8)
SIZE = Option("--target-size", ("quantize", "target_size"), "1GB")


@pytest.mark.parametrize(
    ("lines", "option", "mix"),
    [
        ("type: q4_0", BITS, "q8_0"),
        ("bits: 4", TYPE, "q4_k_m"),
        ("target_size: 1GB", TYPE, "q4_k_m"),
        ("type: q4_0", SIZE, ""),
        ("bits: 4", Option("--set quantize.type", ("quantize", "type"), "q6_k"), "q6_k"),
    ],
)
def test_an_option_that_chooses_types_replaces_the_choice_of_a_file(
    lines: str, option: Option, mix: str, tmp_path: Path
) -> None:
    file = tmp_path / "quantize.yaml"
    file.write_text(f"model: {{path: a.gguf}}\nquantize: {{{lines}, pure: false}}\n")
    assert quantize_config(file, [option]).quantize.mix == mix


def test_a_granularity_replaces_its_short_form(tmp_path: Path) -> None:
    file = tmp_path / "quantize.yaml"
    file.write_text("model: {path: a.gguf}\nquantize: {bits: 8, per_channel: true}\n")
    option = Option("--granularity", ("quantize", "granularity"), "per_tensor")
    assert quantize_config(file, [option]).quantize.scale_group == "per_tensor"


def test_two_options_that_choose_types_are_a_conflict(tmp_path: Path) -> None:
    file = tmp_path / "quantize.yaml"
    file.write_text("model: {path: a.gguf}\nquantize: {bits: 4}\n")
    [found] = problems(file, BITS, TYPE)
    assert found == "--type: cannot go together with quantize.bits; keep one of them"


def test_the_data_of_a_calibration_are_described_beside_them() -> None:
    content = {"data": "c.parquet", "columns": {"text": "body"}, "task": "TEXT", "chat_template": "chatml"}
    calibration = Option("--set", ("quantize", "calibration"), content)
    found = quantize_config(None, [MODEL, TO, TYPE, calibration]).quantize.calibration
    assert found is not None
    assert (found.columns, found.task, found.chat_template) == ({"text": "body"}, "text", "chatml")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"data": "c", "columns": {"txt": "body"}}, "columns.txt: is not a role that a column can have"),
        ({"data": "c", "columns": {"prompt": "p"}}, "columns.prompt: needs completion too"),
        ({"data": "c", "task": "chat", "columns": {"text": "t"}}, "columns.text: is not a column of the task chat"),
        ({"imatrix": "i.gguf", "task": "chat"}, "task: cannot go together with quantize.calibration.imatrix"),
        ({"columns": {"text": "t"}}, "columns: is about calibration.data, and there are none"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(content: dict[str, object], says: str) -> None:
    calibration = Option("--set quantize.calibration", ("quantize", "calibration"), content)
    assert any(f"quantize.calibration.{says}" in found for found in problems(None, MODEL, TO, TYPE, calibration))


def test_the_options_of_calibrate_are_checked_like_a_file() -> None:
    data = Option("DATA", ("quantize", "calibration", "data"), "c.jsonl")
    rows = Option("--rows", ("quantize", "calibration", "rows"), 7)
    assert (calibration_of([data, rows]).data, calibration_of([data, rows]).rows) == ("c.jsonl", 7)
    with pytest.raises(ConfigProblems, match="--task: value"):
        calibration_of([data, Option("--task", ("quantize", "calibration", "task"), "chats")])

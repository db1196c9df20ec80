"""The configuration of `entrenar quantize`: options, a file, and options over a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.quantize_file import Option, QuantizeConfig, quantize_config

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
    assert found.startswith('--type: quantize.type: value "q4_m"; must be one of q4_0')
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

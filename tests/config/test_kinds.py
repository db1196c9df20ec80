"""A file of one command that is given to the other is recognised, and the command that it is for is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.config.load import load_config
from entrenar_core.config.problem import ConfigProblems
from entrenar_core.config.quantize_file import quantize_config
from entrenar_core.errors import ConfigError

MODEL = "model: {path: a.gguf}\n"
TRAINING = MODEL + "data: {train: t.parquet}\nquantize: {bits: 4}\n"
QUANTIZING = MODEL + "quantize: {type: q8_0}\noutput: {path: b.gguf}\nrun: {threads: 2}\n"


def written(folder: Path, content: str) -> Path:
    path = folder / "my file.yaml"
    path.write_text(content)
    return path


def test_a_training_run_is_not_quantized(tmp_path: Path) -> None:
    path = written(tmp_path, TRAINING)
    with pytest.raises(ConfigError, match=r"describes a training run \(it has data\)") as caught:
        quantize_config(path, [])
    assert caught.value.where == str(path)
    assert str(caught.value.hint).startswith(f"entrenar train '{path}'; or name the model: entrenar quantize MODEL")


@pytest.mark.parametrize("lines", ["output: {path: b.gguf}", "run: {memory: 1GiB}", "output: {report: r.json}"])
def test_what_is_to_be_quantized_is_not_trained(lines: str, tmp_path: Path) -> None:
    path = written(tmp_path, f"{MODEL}quantize: {{bits: 4}}\n{lines}\n")
    with pytest.raises(ConfigError, match="this file is for entrenar quantize") as caught:
        load_config(path)
    assert (caught.value.where, caught.value.hint) == (str(path), f"entrenar quantize '{path}'")


def test_each_command_takes_its_own(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, TRAINING)).data.train[0].path == "t.parquet"
    assert quantize_config(written(tmp_path, QUANTIZING), []).run.threads == 2


def test_a_mixture_is_checked_key_by_key(tmp_path: Path) -> None:
    path = written(tmp_path, TRAINING + "output: {path: b.gguf}\n")
    for read in (load_config, lambda path: quantize_config(path, [])):
        with pytest.raises(ConfigProblems, match="unknown key"):
            read(path)


def test_a_run_without_data_is_still_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigProblems, match="data: required key is missing"):
        load_config(written(tmp_path, MODEL + "quantize: {bits: 4}\n"))


def test_a_merge_alone_is_neither_trained_nor_quantized(tmp_path: Path) -> None:
    path = written(tmp_path, "merge: {method: slerp, models: [a.gguf, b.gguf]}\n")
    for read in (load_config, lambda path: quantize_config(path, [])):
        with pytest.raises(ConfigError, match="this file is for entrenar merge") as caught:
            read(path)
        assert caught.value.hint == f"entrenar merge '{path}'"

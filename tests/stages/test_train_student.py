"""Runs that start from a student shaped from a teacher: what is trained, written, recorded and gone on from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from entrenar_core.config.load import load_config
from entrenar_core.errors import ConfigError, FormatError
from entrenar_core.events import Notice
from entrenar_core.gguf.names import ROPE_FREQS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.model.load import read_spec
from entrenar_core.stages.train import RunResult, run_training
from tests.model.tiny import lively_weights
from tests.stages import gguf_py
from tests.stages.tiny_base import FILE_TYPES, base_spec, write_base, write_config
from tests.train.tiny_model import Listener

pytestmark = pytest.mark.integration

HALF = {"layers": [0, 2]}
NARROW = {"layers": 2, "hidden": 24, "heads": 2, "kv_heads": 1, "ffn": 32}


@pytest.fixture
def teacher(folder: Path) -> Path:
    """Three blocks, where the base model of `folder` would be."""
    return write_base(folder / "base.gguf", base_spec(num_layers=3))


def student_config(folder: Path, student: dict[str, Any], **sections: Any) -> Path:
    distill = {"teacher": str(folder / "base.gguf"), "alpha": 0, "student": student}
    return write_config(folder, **{"model": None, "lora": None, "distill": distill, **sections})


def train_student(folder: Path, student: dict[str, Any], **sections: Any) -> tuple[RunResult, Listener]:
    listener = Listener()
    return run_training(load_config(student_config(folder, student, **sections)), reporter=listener), listener


def written(result: RunResult) -> GGUFFile:
    assert result.model is not None
    return GGUFFile.open(result.model)


def test_a_run_without_steps_of_any_size_writes_blocks_of_the_teacher(folder: Path, teacher: Path) -> None:
    result, _ = train_student(folder, HALF, optimizer={"lr": 1e-30, "weight_decay": 0})
    made, weights = written(result), lively_weights(base_spec(num_layers=3))
    for name in made.tensors:
        source = name.replace("blk.1.", "blk.2.")
        np.testing.assert_allclose(made.load(name), weights[source], rtol=0, atol=1e-6, err_msg=name)
    assert gguf_py.types(made.paths[0]) == {name: "F32" for name in made.tensors}


@pytest.mark.parametrize(("student", "is_measured"), [(HALF, False), (NARROW, True)], ids=["half", "narrow"])
def test_the_model_is_written_with_the_tokenizer_of_the_teacher(
    folder: Path, teacher: Path, student: dict[str, Any], is_measured: bool
) -> None:
    result, listener = train_student(folder, student)
    made = written(result)
    spec = read_spec(made)
    assert spec.num_layers == 2
    if is_measured:
        assert (spec.hidden_size, spec.num_heads, spec.num_kv_heads, spec.head_dim, spec.intermediate_size) == (
            24, 2, 1, 8, 32,
        )  # fmt: skip
    with GGUFFile.open(teacher) as whole:
        for key in ("tokenizer.ggml.tokens", "tokenizer.chat_template", "test.large"):
            assert np.array_equal(np.asarray(made.metadata[key]), np.asarray(whole.metadata[key])), key
    assert any("what matters least" in one.message for one in listener.of(Notice)) is is_measured


@pytest.mark.parametrize(("of_teacher", "of_student"), [("BF16", "BF16"), ("Q8_0", "F16"), ("Q4_0", "F16")])
def test_a_student_of_a_quantized_teacher_is_written_in_half_precision(
    folder: Path, of_teacher: str, of_student: str
) -> None:
    write_base(folder / "base.gguf", base_spec(num_layers=3), type_name=of_teacher)
    result, _ = train_student(folder, HALF)
    types = gguf_py.types(written(result).paths[0])
    assert {kind for name, kind in types.items() if not name.endswith("norm.weight")} == {of_student}
    assert gguf_py.number(written(result).paths[0], "general.file_type") == FILE_TYPES[of_student]


def test_other_types_are_asked_for_as_anywhere(folder: Path, teacher: Path) -> None:
    result, _ = train_student(folder, HALF, output={"type": "q8_0"})
    assert gguf_py.types(written(result).paths[0])["blk.1.ffn_up.weight"] == "Q8_0"
    other = {"output_dir": str(folder / "qat")}
    result, _ = train_student(folder, HALF, quantize={"type": "q4_0", "stage": "qat"}, training=other)
    assert gguf_py.types(written(result).paths[0])["blk.1.ffn_up.weight"] == "Q4_0"


def test_the_factors_of_rope_are_written_too(folder: Path) -> None:
    factors = np.array([1, 1.5, 2, 4], np.float32)
    write_base(folder / "base.gguf", base_spec(num_layers=3), replaced={ROPE_FREQS: factors})
    result, _ = train_student(folder, HALF)
    np.testing.assert_array_equal(written(result).load(ROPE_FREQS), factors)


def test_random_weights_are_trained_in_the_shape_of_the_teacher(folder: Path, teacher: Path) -> None:
    result, _ = train_student(folder, {"init": "random"})
    made = written(result)
    assert read_spec(made).num_layers == 3
    assert made.load("blk.0.attn_q.weight").std() < 0.1 < lively_weights(base_spec())["blk.0.attn_q.weight"].std()


@pytest.mark.parametrize("student", [HALF, NARROW], ids=["half", "narrow"])
def test_a_run_that_is_gone_on_with_ends_where_it_would_have(
    folder: Path, teacher: Path, student: dict[str, Any]
) -> None:
    whole, _ = train_student(folder, student, training={"max_steps": 4, "output_dir": str(folder / "whole")})
    parts = {"max_steps": 4, "save_every": 2}
    train_student(folder, student, training=parts)
    config = load_config(student_config(folder, student, training=parts))
    at_two = folder / "run" / "checkpoints" / "step-000002"
    resumed = run_training(config, resume_from=at_two, reporter=Listener())
    for name in written(whole).tensors:
        np.testing.assert_array_equal(written(resumed).load(name), written(whole).load(name), err_msg=name)


def test_a_run_is_not_gone_on_with_from_another_teacher(folder: Path, teacher: Path) -> None:
    train_student(folder, HALF)
    write_base(folder / "base.gguf", base_spec(num_layers=3), replaced={"output_norm.weight": np.ones(32, np.float32)})
    config = load_config(student_config(folder, HALF))
    with pytest.raises((ConfigError, FormatError), match="model"):
        run_training(config, resume_from="auto", reporter=Listener())


def test_a_size_that_does_not_fit_is_found_before_the_data_are_read(folder: Path, teacher: Path) -> None:
    with pytest.raises(ConfigError, match="value 7; the teacher has 3 blocks") as caught:
        train_student(folder, {"layers": 7}, data={"train": str(folder / "missing.parquet")})
    assert caught.value.where == "distill.student.layers"

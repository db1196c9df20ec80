"""Files of heads: what was trained comes back, and what is no head or does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from entrenar_core.data.tasks import Task
from entrenar_core.errors import EntrenarError, FormatError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.model.head_file import load_head, read_head_spec, write_head
from entrenar_core.model.heads import HeadSpec, SequenceModel, attach_head
from tests.model.tiny import build, lively, tiny_spec, write_model

CLASSES = HeadSpec(Task.CLASSIFICATION, ("no", "ja ✓", ""), "review", "mood")
NUMBER = HeadSpec(Task.REGRESSION, (), "review", "stars", mean=0.1, std=1e-3)


def with_head(spec: HeadSpec, architecture: str = "llama") -> SequenceModel:
    size = (spec.n_outputs, 16)
    model = build(tiny_spec(architecture))
    return attach_head(model, spec, lively("cls.output.weight", size), lively("cls.output.bias", size[:1]))


@pytest.mark.parametrize("spec", [CLASSES, NUMBER], ids=["classes", "number"])
def test_a_head_comes_back_as_it_was_written(tmp_path: Path, spec: HeadSpec) -> None:
    path, model = tmp_path / "head.gguf", with_head(spec)
    assert write_head(path, model) == path.stat().st_size
    loaded = load_head(path, build(tiny_spec()))
    assert loaded.spec == read_head_spec(path) == spec
    for found, expected in zip(loaded.head_values(), model.head_values(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_the_file_says_what_it_is_and_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "head.gguf"
    write_head(path, with_head(CLASSES, "qwen2"), [("entrenar.note", MetadataValue.string("kept"))])
    with GGUFFile.open(path) as file:
        assert dict(file.metadata) == {
            **{"general.type": "head", "general.architecture": "qwen2", "head.task": "classification"},
            **{"head.text_column": "review", "head.target_column": "mood", "head.classes": ["no", "ja ✓", ""]},
            "entrenar.note": "kept",
        }
        assert {name: (info.shape, info.type_name) for name, info in file.tensors.items()} == {
            "cls.output.weight": ((3, 16), "F32"),
            "cls.output.bias": ((3,), "F32"),
        }


def test_a_head_of_another_architecture_is_refused(tmp_path: Path) -> None:
    write_head(tmp_path / "head.gguf", with_head(CLASSES, "qwen2"))
    with pytest.raises(ModelError, match=r"head\.gguf: the head is for a qwen2 model, not llama"):
        load_head(tmp_path / "head.gguf", build(tiny_spec()))


def test_a_head_of_another_width_is_refused(tmp_path: Path) -> None:
    write_head(tmp_path / "head.gguf", with_head(CLASSES))
    with pytest.raises(ModelError, match=r"head\.gguf: a head of \[3, 16\].*hidden states of 8"):
        load_head(tmp_path / "head.gguf", build(tiny_spec(hidden_size=8)))


def test_a_model_is_no_head(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="this is not the head of"):
        read_head_spec(write_model(tmp_path / "model.gguf", tiny_spec()))


ENTRIES = {
    "general.type": MetadataValue.string("head"),
    "general.architecture": MetadataValue.string("llama"),
    "head.task": MetadataValue.string("classification"),
    "head.text_column": MetadataValue.string("review"),
    "head.target_column": MetadataValue.string("mood"),
    "head.classes": MetadataValue.array(ValueType.STRING, ["a", "b"]),
}
TENSORS = {"cls.output.weight": np.zeros((2, 16), np.float32), "cls.output.bias": np.zeros(2, np.float32)}


def test_the_file_that_the_next_tests_break_is_good(tmp_path: Path) -> None:
    assert load_head(write_raw(tmp_path / "head.gguf", {}), build(tiny_spec())).spec.classes == ("a", "b")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head.task": None}, "head.task is missing or of the wrong type"),
        ({"head.task": MetadataValue.string("chat")}, "head.task is 'chat'"),
        ({"head.task": MetadataValue.string("regression")}, "head.mean is missing"),
        ({"head.classes": None}, "head.classes is missing"),
        ({"head.classes": MetadataValue.string("a,b")}, "head.classes is missing or of the wrong type"),
        ({"head.classes": MetadataValue.array(ValueType.STRING, ["a"])}, "at least two"),
        ({"head.text_column": MetadataValue.uint32(1)}, "head.text_column is missing or of the wrong type"),
        ({"cls.output.bias": None}, "the tensor cls.output.bias is missing"),
    ],
)
def test_a_head_that_lacks_something_is_refused_by_name(
    tmp_path: Path, changes: dict[str, MetadataValue | None], message: str
) -> None:
    with pytest.raises(FormatError, match=message) as caught:
        load_head(write_raw(tmp_path / "head.gguf", changes), build(tiny_spec()))
    assert caught.value.where == str(tmp_path / "head.gguf")


def test_more_classes_than_rows_are_refused(tmp_path: Path) -> None:
    three = MetadataValue.array(ValueType.STRING, ["a", "b", "c"])
    with pytest.raises(EntrenarError, match=r"a head of \[2, 16\].*3 outputs"):
        load_head(write_raw(tmp_path / "head.gguf", {"head.classes": three}), build(tiny_spec()))


def write_raw(path: Path, changes: dict[str, MetadataValue | None]) -> Path:
    """The file of `ENTRIES` and `TENSORS` with other entries; None leaves an entry or a tensor out."""
    entries = [(key, value) for key, value in (ENTRIES | changes).items() if value is not None and key not in TENSORS]
    kept = [encode_tensor(name, values, "F32") for name, values in TENSORS.items() if name not in changes]
    write_gguf(path, entries, kept)
    return path

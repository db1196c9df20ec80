"""What a plan says of each tensor, what the mixes are told of a model, and which files and types are refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import ConfigError, FormatError, ModelError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.quant.mix_rules import ModelFacts
from entrenar_core.quant.mixes import ChosenType
from entrenar_core.quant.plan import (
    PlannedTensor,
    check_quantizable,
    model_facts,
    named,
    plan_tensors,
    shapes_and_types,
)

MATRIX = "blk.0.attn_q.weight"


@contextmanager
def a_file(
    folder: Path, metadata: Mapping[str, MetadataValue] | None = None, **tensors: tuple[tuple[int, ...], str]
) -> Iterator[GGUFFile]:
    """Tensors of zeros by name (dots as double underscores), with shape and type."""
    plans = [
        encode_tensor(name.replace("__", "."), np.zeros(shape, np.float32), type_name)
        for name, (shape, type_name) in tensors.items()
    ]
    write_gguf(folder / "model.gguf", list((metadata or {}).items()), plans)
    with GGUFFile.open(folder / "model.gguf") as file:
        yield file


def planned(
    type_name: str, wanted: str = "", present: str = "F16", shape: tuple[int, ...] = (2, 3, 64)
) -> PlannedTensor:
    return PlannedTensor(TensorInfo(MATRIX, shape, present, 0, 0), type_name, wanted)


def test_a_tensor_knows_its_rows_columns_and_bytes() -> None:
    one = planned("Q4_0")
    assert (one.name, one.n_rows, one.n_columns, one.n_bytes) == (MATRIX, 6, 64, 6 * 2 * 18)
    assert (planned("F32", shape=()).n_rows, planned("F32", shape=()).n_columns) == (1, 1)
    assert (planned("F32", shape=(5,)).n_rows, planned("F32", shape=(5,)).n_columns) == (1, 5)


def test_a_type_that_fits_instead_of_another_is_a_fall_back_unless_it_is_there_already() -> None:
    assert planned("Q5_0", "Q4_K").fell_back
    assert not planned("Q4_K", "Q4_K", shape=(2, 256)).fell_back
    assert not planned("Q5_0").fell_back
    assert not planned("F16", "Q4_K").fell_back  # a copy
    assert planned("F16").is_copied
    assert not planned("Q5_0").is_copied


def test_facts_of_a_model_are_read_from_its_keys(tmp_path: Path) -> None:
    keys = {
        "general.architecture": MetadataValue.string("qwen9"),
        "qwen9.block_count": MetadataValue.uint32(3),
        "qwen9.attention.head_count": MetadataValue.array(ValueType.UINT32, [8, 4]),
        "qwen9.attention.head_count_kv": MetadataValue.uint32(2),
        "qwen9.expert_count": MetadataValue.uint32(5),
    }
    with a_file(tmp_path, keys, v=((4,), "F32")) as file:
        assert model_facts(file.metadata) == ModelFacts("qwen9", layers=3, heads=8, kv_heads=2, experts=5)


def test_facts_that_are_missing_or_no_numbers_are_not_known(tmp_path: Path) -> None:
    with a_file(tmp_path, v=((4,), "F32")) as file:
        assert model_facts(file.metadata) == ModelFacts("")
    keys = {
        "general.architecture": MetadataValue.string("llama"),
        "llama.block_count": MetadataValue.string("many"),
        "llama.attention.head_count": MetadataValue.array(ValueType.UINT32, []),
    }
    with a_file(tmp_path, keys, v=((4,), "F32")) as file:
        assert model_facts(file.metadata) == ModelFacts("llama")


@pytest.mark.parametrize(
    ("kind", "message", "hint"),
    [
        ("adapter", "this is a LoRA adapter", "merge it into its base model first"),
        ("imatrix", "this is an importance matrix, not a model", "--imatrix"),
    ],
)
def test_files_that_are_no_models_are_refused(kind: str, message: str, hint: str, tmp_path: Path) -> None:
    keys = {"general.type": MetadataValue.string(kind)}
    matrix = {"blk__0__attn_q__weight": ((4, 32), "F16")}
    with a_file(tmp_path, keys, **matrix) as file, pytest.raises(ModelError) as error:
        check_quantizable(file)
    assert error.value.message.startswith(message)
    assert hint in str(error.value.hint)
    assert error.value.where == str(tmp_path / "model.gguf")


def test_files_without_a_matrix_are_refused(tmp_path: Path) -> None:
    with a_file(tmp_path, v=((4,), "F32"), output_norm__weight=((32,), "F32")) as file:
        with pytest.raises(ModelError, match="the file has no matrices that could be quantized") as error:
            check_quantizable(file)
        assert error.value.where == str(tmp_path / "model.gguf")
        assert error.value.hint == "give the file of a model with weights"
    with a_file(tmp_path) as file, pytest.raises(ModelError, match="no tensors: it is a vocabulary alone"):
        check_quantizable(file)


@pytest.mark.parametrize("keys", [{}, {"general.type": MetadataValue.string("model")}])
def test_a_single_matrix_is_enough(keys: Mapping[str, MetadataValue], tmp_path: Path) -> None:
    with a_file(tmp_path, keys, v=((4,), "F32"), blk__0__attn_q__weight=((4, 32), "F16")) as file:
        check_quantizable(file)
        assert shapes_and_types(file) == {"v": ((4,), "F32"), MATRIX: ((4, 32), "F16")}


def test_a_plan_has_the_chosen_types_in_the_order_of_the_file(tmp_path: Path) -> None:
    with a_file(tmp_path, b=((4, 32), "F16"), a=((4, 40), "F32")) as file:
        plan = plan_tensors(file, {"a": ChosenType("F16", "Q4_0"), "b": ChosenType("Q4_0", "Q4_0")})
    assert [(one.name, one.type_name, one.wanted, one.fell_back) for one in plan] == [
        ("b", "Q4_0", "Q4_0", False),
        ("a", "F16", "Q4_0", True),
    ]


def test_types_that_nothing_writes_are_refused_by_name(tmp_path: Path) -> None:
    with a_file(tmp_path, b=((4, 256), "F16"), a=((4, 256), "F32"), c=((4, 256), "F32")) as file:
        chosen = {"a": ChosenType("TQ1_0"), "b": ChosenType("IQ2_S"), "c": ChosenType("Q8_0")}
        with pytest.raises(ConfigError, match=r"quantize.type: IQ2_S, TQ1_0 can be read, but not written yet") as error:
            plan_tensors(file, chosen)
        assert str(error.value.hint).startswith("types that can be written: BF16, F16, F32, ")


def test_few_bits_are_rounded_again_only_when_asked_for(tmp_path: Path) -> None:
    few = {f"t{index}": ((4, 32), type_name) for index, type_name in enumerate(["Q8_0", "Q5_1", "Q8_0", "Q8_0"])}
    with a_file(tmp_path, **few, f=((4, 32), "F16"), same=((4, 32), "Q4_0")) as file:
        chosen = {name: ChosenType("Q4_0") for name in file.tensors}
        with pytest.raises(FormatError) as error:
            plan_tensors(file, chosen)
        assert error.value.message.startswith("4 tensors have few bits already (Q5_1, Q8_0): t0, t1, t2 and 1 more;")
        assert error.value.where == str(tmp_path / "model.gguf")
        assert "--allow-requantize" in str(error.value.hint)
        assert [one.type_name for one in plan_tensors(file, chosen, allow_requantize=True)] == ["Q4_0"] * 6
        wide = plan_tensors(file, {name: ChosenType("F16") for name in file.tensors})
        assert [one.is_copied for one in wide] == [False, False, False, False, True, False]


def test_a_single_tensor_of_few_bits_is_said_in_the_singular(tmp_path: Path) -> None:
    with a_file(tmp_path, few=((4, 32), "Q8_0"), f=((4, 32), "F16")) as file, pytest.raises(FormatError) as error:
        plan_tensors(file, dict.fromkeys(file.tensors, ChosenType("Q4_0")))
    assert error.value.message == "1 tensor has few bits already (Q8_0): few; rounding it again loses quality"


def test_three_names_are_said_and_the_rest_counted() -> None:
    assert named(["a", "b", "c"]) == "a, b, c"
    assert named(["a", "b", "c", "d", "e"]) == "a, b, c and 2 more"
    assert named(["a"]) == "a"

"""How much a matrix loses in a type: relative errors of evenly spaced rows, weighed as the encoder weighs them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.writer import TensorPlan, encode_tensor, write_gguf
from entrenar_core.quant import sensitivity
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.sensitivity import candidate_types, measure_sensitivity, relative_error, sample
from entrenar_core.quant.source import RowSource


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lost(type_name: str, values: np.ndarray, importance: np.ndarray | None = None) -> tuple[float, float]:
    """The weighted squares of the error and of the values, in float64."""
    codec, weights = codec_for(type_name), 1.0 if importance is None else importance.astype(np.float64)
    wide = values.astype(np.float64)
    error = codec.decode(codec.encode(values, importance)) - wide
    return float((weights * error**2).sum()), float((weights * wide**2).sum())


@contextmanager
def opened(folder: Path, tensors: Mapping[str, np.ndarray]) -> Iterator[tuple[list[PlannedTensor], RowSource]]:
    write_gguf(folder / "m.gguf", [], [encode_tensor(name, values, "F32") for name, values in tensors.items()])
    with GGUFFile.open(folder / "m.gguf") as file, RowSource(file) as source:
        yield [PlannedTensor(info, "Q8_0") for info in file.tensors.values()], source


def measured(
    folder: Path,
    tensors: Mapping[str, np.ndarray],
    types: Sequence[str],
    importance: Mapping[str, np.ndarray] | None = None,
    n_workers: int = 2,
) -> list[dict[str, float]]:
    with opened(folder, tensors) as (plan, source):
        return measure_sensitivity(plan, [types] * len(plan), source, importance or {}, n_workers, lambda count: None)


@pytest.mark.parametrize(
    ("row", "present", "expected"),
    [
        (256, "Q4_0", "Q2_K Q3_K IQ4_XS Q4_0"),  # Q4_K and IQ4_NL take as many bytes as Q4_0
        (64, "F16", "Q4_0 IQ4_NL Q5_0 Q8_0 F16"),
        (40, "F32", "F16 BF16 F32"),
        (40, "F16", "F16"),
        (256, "Q8_0", "Q2_K Q3_K IQ4_XS Q4_K Q4_0 IQ4_NL Q5_K Q5_0 Q6_K Q8_0"),
    ],
)
def test_a_tensor_can_become_what_is_smaller_and_fits_or_stay(row: int, present: str, expected: str) -> None:
    assert candidate_types(TensorInfo("w", (4, row), present, 0, 0)) == expected.split()


@pytest.mark.parametrize("weighed", [False, True])
def test_the_error_is_relative_to_the_values(weighed: bool) -> None:
    values = normal(6, 64)
    importance = np.abs(normal(64, seed=1)) if weighed else None
    noise, power = lost("Q4_0", values, importance)
    assert relative_error("Q4_0", values, [(slice(0, 6), importance)]) == pytest.approx(noise / power, rel=1e-6)
    assert relative_error("Q4_0", 8 * values, [(slice(0, 6), importance)]) == pytest.approx(noise / power, rel=1e-6)


def test_nothing_is_lost_of_zeros() -> None:
    assert relative_error("Q4_0", np.zeros((2, 32), np.float32), [(slice(0, 2), None)]) == 0.0


def test_a_small_matrix_is_measured_as_a_whole(tmp_path: Path) -> None:
    values = {"a": normal(5, 64), "b": normal(7, 64, seed=1) * 30}
    found = measured(tmp_path, values, ["Q4_0", "Q8_0", "F32"])
    for name, one in zip(values, found, strict=True):
        assert list(one) == ["Q4_0", "Q8_0", "F32"]
        assert one["F32"] == 0.0, "the type that it has"
        for type_name in ("Q4_0", "Q8_0"):
            noise, power = lost(type_name, values[name])
            assert one[type_name] == pytest.approx(noise / power, rel=1e-6)


def test_a_tensor_loses_nothing_in_the_type_that_it_has(tmp_path: Path) -> None:
    """Not even in one that nothing can be encoded in."""
    blocks = np.zeros((2, 66), np.uint8)
    write_gguf(tmp_path / "m.gguf", [], [TensorPlan("w", (2, 256), "IQ2_XXS", lambda: blocks)])
    with GGUFFile.open(tmp_path / "m.gguf") as file, RowSource(file) as source:
        plan = [PlannedTensor(file.tensors["w"], "IQ2_XXS")]
        found = measure_sensitivity(plan, [["IQ2_XXS"]], source, {}, 1, lambda count: None)
    assert found == [{"IQ2_XXS": 0.0}]


@pytest.mark.parametrize(
    ("rows", "values", "expected"),
    [(10, 4 * 64, [0, 2, 5, 7]), (10, 64, [0]), (10, 1, [0]), (3, 1 << 16, [0, 1, 2]), (8, 4 * 64 + 63, [0, 2, 4, 6])],
)
def test_rows_of_a_sample_are_evenly_spaced(
    rows: int, values: int, expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "SAMPLE_VALUES", values)
    matrix = normal(rows, 64)
    with opened(tmp_path, {"w": matrix}) as (plan, source):
        numbers, found = sample(plan[0], source)
    assert numbers.tolist() == expected
    np.testing.assert_array_equal(found, matrix[expected])


def test_the_importance_of_columns_counts(tmp_path: Path) -> None:
    values, importance = normal(5, 64), np.abs(normal(64, seed=1)) ** 3
    found = measured(tmp_path, {"a": values, "b": values}, ["Q4_0"], {"b": importance})
    noise, power = lost("Q4_0", values, importance)
    assert found[1]["Q4_0"] == pytest.approx(noise / power, rel=1e-6)
    assert found[0]["Q4_0"] != found[1]["Q4_0"]


@pytest.mark.parametrize("sample_values", [1 << 16, 4 * 64])
def test_each_matrix_of_a_stack_counts_by_its_own_importance(
    sample_values: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "SAMPLE_VALUES", sample_values)
    values, importance = normal(3, 4, 64), np.abs(normal(3, 64, seed=1)) ** 3
    found = measured(tmp_path, {"w": values}, ["Q4_0"], {"w": importance})
    rows = np.arange(12) if sample_values > 1000 else np.array([0, 3, 6, 9])
    sums = [lost("Q4_0", values.reshape(12, 64)[rows[rows // 4 == matrix]], importance[matrix]) for matrix in range(3)]
    noise, power = np.sum(sums, axis=0)
    assert found[0]["Q4_0"] == pytest.approx(noise / power, rel=1e-6)


def test_threads_do_not_matter_and_all_tensors_are_counted(tmp_path: Path) -> None:
    tensors = {f"w{index}": normal(4, 64, seed=index) for index in range(5)}
    assert measured(tmp_path, tensors, ["Q4_0"], n_workers=1) == measured(tmp_path, tensors, ["Q4_0"], n_workers=3)


def test_a_value_that_is_not_finite_is_named_by_its_place_in_the_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "SAMPLE_VALUES", 4 * 64)
    values = normal(8, 64)
    values[6, 9] = np.nan  # the last row of the sample
    with pytest.raises(FormatError) as error:
        measured(tmp_path, {"w": values}, ["Q4_0"])
    assert error.value.message == "the value in row 6, column 9 is nan"
    assert error.value.where == f"{tmp_path / 'm.gguf'}: tensor w"


def test_a_value_that_a_type_cannot_hold_is_named_by_its_place_in_the_tensor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sensitivity, "SAMPLE_VALUES", 4 * 64)
    values = normal(8, 64)
    values[4, 9] = 1e8
    with pytest.raises(FormatError, match=r"1e\+08 does not fit a block of Q4_0 \(row 4, column 9\)"):
        measured(tmp_path, {"w": values}, ["Q4_0"])

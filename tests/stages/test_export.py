"""What a trained model looks like on disk: types, copied tensors, metadata, and what refuses to be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.codecs.registry import codec_for
from entrenar_core.config.root import Config
from entrenar_core.errors import FormatError, TrainingError
from entrenar_core.events import Notice, Progress, Saved
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.quant import encoding
from entrenar_core.quant.encoding import Encoding, plain_encodings
from entrenar_core.quant.mixes import ModelFacts
from entrenar_core.quant.rounding import TensorError
from entrenar_core.stages.changes import Values
from entrenar_core.stages.export import ModelForm, export_new, export_over_base
from entrenar_core.stages.output_types import plan_output_types
from tests.model.tiny import lively_weights
from tests.stages import gguf_py
from tests.stages.tiny_base import FILE_TYPES, base_entries, base_spec, write_base
from tests.train.tiny_model import Listener

Q, K, NORM = "blk.0.attn_q.weight", "blk.0.attn_k.weight", "output_norm.weight"
PROVENANCE = [("entrenar.version", MetadataValue.string("1")), ("entrenar.base_sha256", MetadataValue.string("ab"))]


def new_values(base: Path, name: str) -> np.ndarray:
    return gguf_py.values(base, name) + np.float32(0.25)


def new_form(weights: Mapping[str, np.ndarray], type_name: str) -> ModelForm:
    return ModelForm({name: Encoding(type_name if array.ndim > 1 else "F32") for name, array in weights.items()})


def output_config(wanted: str) -> Config:
    content = {"model": {"path": "b.gguf"}, "data": {"train": "t.parquet"}, "output": {"type": wanted}}
    return Config.model_validate(content)


def export_measured(
    tmp_path: Path, base: Path, changed: Mapping[str, np.ndarray], wanted: str = "auto", threads: int = 1
) -> tuple[Path, Listener, list[TensorError]]:
    path, listener = tmp_path / "out.gguf", Listener()
    producers: dict[str, Values] = {name: lambda array=array: array for name, array in changed.items()}  # type: ignore[misc]
    with GGUFFile.open(base) as file:
        sources = {name: (info.shape, info.type_name) for name, info in file.tensors.items()}
        plan = plan_output_types(sources, changed, output_config(wanted), ModelFacts())
        form = ModelForm(plain_encodings(plan.types), plan.file_type, PROVENANCE, threads)
        errors = export_over_base(path, file, producers, form, listener)
    return path, listener, errors


def export(
    tmp_path: Path, base: Path, changed: Mapping[str, np.ndarray], wanted: str = "auto", threads: int = 1
) -> tuple[Path, Listener]:
    return export_measured(tmp_path, base, changed, wanted, threads)[:2]


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_auto_keeps_the_type_of_every_tensor(tmp_path: Path, type_name: str) -> None:
    base = write_base(tmp_path / "base.gguf", type_name=type_name)
    path, listener = export(tmp_path, base, {Q: new_values(base, Q)})
    assert gguf_py.types(path) == gguf_py.types(base)
    assert gguf_py.number(path, "general.file_type") == FILE_TYPES[type_name]
    assert listener.of(Notice) == []


@pytest.mark.parametrize("wanted", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16", "Q8_0"])
def test_an_asked_for_type_is_that_of_all_matrices_and_vectors_stay(
    tmp_path: Path, type_name: str, wanted: str
) -> None:
    base = write_base(tmp_path / "base.gguf", type_name=type_name)
    path, _ = export(tmp_path, base, {Q: new_values(base, Q)}, wanted)
    shapes = {name: array.ndim for name, array in lively_weights(base_spec()).items()}
    assert gguf_py.types(path) == {name: wanted.upper() if axes > 1 else "F32" for name, axes in shapes.items()}
    assert gguf_py.number(path, "general.file_type") == FILE_TYPES[wanted.upper()]


@pytest.mark.parametrize(("wanted", "tolerance"), [("f32", 0.0), ("f16", 2**-11), ("bf16", 2**-8)])
def test_written_values_are_the_nearest_of_their_type(tmp_path: Path, wanted: str, tolerance: float) -> None:
    base = write_base(tmp_path / "base.gguf")
    path, _ = export(tmp_path, base, {Q: new_values(base, Q)}, wanted)
    for name, expected in ((Q, new_values(base, Q)), (K, gguf_py.values(base, K)), (NORM, gguf_py.values(base, NORM))):
        np.testing.assert_allclose(gguf_py.values(path, name), expected, rtol=tolerance, atol=1e-7 if tolerance else 0)


@pytest.mark.parametrize("type_name", ["F16", "Q8_0", "Q4_0"])
def test_tensors_that_were_not_trained_are_copied_byte_by_byte(tmp_path: Path, type_name: str) -> None:
    base = write_base(tmp_path / "base.gguf", type_name=type_name)
    path, _ = export(tmp_path, base, {Q: new_values(base, Q)})
    before, after = gguf_py.raw_tensors(base), gguf_py.raw_tensors(path)
    assert list(after) == list(before)
    assert [name for name in before if before[name] != after[name]] == [Q]


@pytest.mark.parametrize(("wanted", "is_kept"), [("auto", True), ("f16", False)])
def test_an_importance_matrix_is_named_while_something_is_rounded_by_it(
    tmp_path: Path, wanted: str, is_kept: bool
) -> None:
    said = [("quantize.imatrix.file", MetadataValue.string("im.gguf"))]
    base = write_base(tmp_path / "base.gguf", type_name="Q4_0", extra=said)
    path, _ = export(tmp_path, base, {Q: new_values(base, Q)}, wanted)
    assert ("quantize.imatrix.file" in gguf_py.raw_fields(path)) == is_kept


def test_every_key_of_the_base_is_kept_byte_by_byte_and_provenance_is_added(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="F16")
    path, _ = export(tmp_path, base, {Q: new_values(base, Q)})
    before, after = gguf_py.raw_fields(base), gguf_py.raw_fields(path)
    assert {key: after.get(key) for key in before} == before
    assert list(after)[len(before) :] == ["entrenar.version", "entrenar.base_sha256"]


def test_provenance_of_an_earlier_run_is_replaced(tmp_path: Path) -> None:
    earlier = [("entrenar.version", MetadataValue.string("0")), ("entrenar.note", MetadataValue.string("kept"))]
    base = write_base(tmp_path / "base.gguf", extra=earlier)
    path, _ = export(tmp_path, base, {})
    assert gguf_py.text(path, "entrenar.version") == "1"
    assert gguf_py.text(path, "entrenar.note") == "kept"


def test_a_file_type_is_added_where_the_base_has_none(tmp_path: Path) -> None:
    spec, path = base_spec(), tmp_path / "out.gguf"
    entries = [entry for entry in base_entries(spec) if entry[0] != "general.file_type"]
    export_new(path, entries, lively_weights(spec), new_form(lively_weights(spec), "BF16"), Listener())
    assert gguf_py.number(path, "general.file_type") == FILE_TYPES["BF16"]


def test_a_changed_tensor_of_q8_0_stays_q8_0(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="Q8_0")
    path, listener = export(tmp_path, base, {Q: new_values(base, Q), K: new_values(base, K)})
    assert gguf_py.types(path) == gguf_py.types(base)
    assert gguf_py.number(path, "general.file_type") == FILE_TYPES["Q8_0"]
    codec = codec_for("Q8_0")
    assert np.array_equal(gguf_py.values(path, Q), codec.decode(codec.encode(new_values(base, Q))))
    assert listener.of(Notice) == []


@pytest.mark.parametrize("type_name", ["Q4_0", "Q8_0"])
def test_the_error_of_a_changed_tensor_is_that_of_the_written_values(tmp_path: Path, type_name: str) -> None:
    base = write_base(tmp_path / "base.gguf", type_name=type_name)
    changed = {Q: new_values(base, Q), K: gguf_py.values(base, K) * np.float32(1.5)}
    path, listener, errors = export_measured(tmp_path, base, changed)
    assert [error.name for error in errors] == [Q, K]
    for error in errors:
        off = gguf_py.values(path, error.name) - changed[error.name]
        change = changed[error.name] - gguf_py.values(base, error.name)
        assert (error.type_name, error.n_values) == (type_name, off.size)
        assert error.rmse == pytest.approx(np.sqrt(np.mean(np.square(off, dtype=np.float64))), rel=1e-6)
        assert error.max_error == pytest.approx(np.abs(off).max(), rel=1e-6)
        assert error.change_rms == pytest.approx(np.sqrt(np.mean(np.square(change, dtype=np.float64))), rel=1e-5)
    assert [(event.done, event.total) for event in listener.of(Progress)] == [(1, 2), (2, 2)]


def test_the_change_is_measured_against_the_start_that_is_given(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="F16")
    path, form = tmp_path / "out.gguf", {Q: Encoding("Q8_0")}
    with GGUFFile.open(base) as file:
        kept = {name: Encoding(info.type_name) for name, info in file.tensors.items()}
        (error,) = export_over_base(
            path,
            file,
            {Q: lambda: new_values(base, Q)},
            ModelForm({**kept, **form}),
            Listener(),
            start=lambda name, rows: new_values(base, name)[rows] - np.float32(2),
        )
    assert error.change_rms == pytest.approx(2.0, rel=1e-5)


def test_tensors_that_are_only_encoded_again_have_an_error_and_no_change(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="F32")
    path, _, errors = export_measured(tmp_path, base, {}, "q8_0")
    assert {error.name for error in errors} == {name for name, kind in gguf_py.types(path).items() if kind == "Q8_0"}
    assert all(error.change_rms is None and error.rmse > 0 for error in errors)
    codec = codec_for("Q8_0")
    assert np.array_equal(gguf_py.values(path, K), codec.decode(codec.encode(gguf_py.values(base, K))))
    assert gguf_py.number(path, "general.quantization_version") == 2


def test_nothing_is_measured_in_f32(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="F32")
    assert export_measured(tmp_path, base, {Q: new_values(base, Q)})[2] == []


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_show(tmp_path: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="Q4_0")
    changed = {Q: new_values(base, Q)}
    expected = export(tmp_path, base, changed)[0].read_bytes()
    monkeypatch.setattr(encoding, "PIECE_VALUES", 96)
    assert export(tmp_path, base, changed, threads=threads)[0].read_bytes() == expected


@pytest.mark.parametrize("value", [np.nan, 6e7])
def test_a_value_that_no_block_holds_is_not_written(tmp_path: Path, value: float) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="Q8_0")
    changed = new_values(base, K)
    changed[3, 5] = value
    with pytest.raises((FormatError, TrainingError), match=f"tensor {K}"):
        export(tmp_path, base, {K: changed})
    assert [file.name for file in tmp_path.iterdir()] == ["base.gguf"]


@pytest.mark.parametrize("value", [65520.0, -1e6])
def test_a_value_too_large_for_f16_names_the_tensor_and_leaves_no_file(tmp_path: Path, value: float) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="F16")
    changed = new_values(base, K)
    changed[3, 5] = value
    with pytest.raises(FormatError, match=f"tensor {K}.*\n.*output.type") as caught:
        export(tmp_path, base, {K: changed})
    assert caught.value.hint == (
        "set output.type, or with a quantize section the tensor's type in quantize.tensor_types, to f32 or bf16"
    )
    assert [file.name for file in tmp_path.iterdir()] == ["base.gguf"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite_are_not_written(tmp_path: Path, value: float) -> None:
    base = write_base(tmp_path / "base.gguf")
    changed = new_values(base, K)
    changed[0, 0] = value
    with pytest.raises(TrainingError, match=f"tensor {K}: the values are not finite"):
        export(tmp_path, base, {K: changed})
    assert [file.name for file in tmp_path.iterdir()] == ["base.gguf"]


def test_a_failed_export_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", type_name="F16")
    path, _ = export(tmp_path, base, {})
    before = path.read_bytes()
    with pytest.raises(FormatError):
        export(tmp_path, base, {Q: np.full_like(new_values(base, Q), 1e6)})
    assert path.read_bytes() == before


def test_a_new_model_has_the_types_of_its_form(tmp_path: Path) -> None:
    spec, path, listener = base_spec("qwen2"), tmp_path / "out.gguf", Listener()
    weights = lively_weights(spec)
    export_new(path, base_entries(spec), weights, new_form(weights, "F16"), listener)
    assert gguf_py.types(path) == {name: "F16" if array.ndim > 1 else "F32" for name, array in weights.items()}
    assert gguf_py.number(path, "general.file_type") == FILE_TYPES["F16"]
    assert listener.of(Saved) == [Saved("model", path, path.stat().st_size)]

"""Importance matrices in llama.cpp's format: what is written comes back, and what cannot be right is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest

from entrenar_core.errors import FormatError
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.quant.imatrix import (
    ImportanceEntry,
    ImportanceMatrix,
    importance_of_tensors,
    read_imatrix,
    write_imatrix,
)

QUERY, EXPERTS = "blk.0.attn_q.weight", "blk.0.ffn_down_exps.weight"


def some_matrix() -> ImportanceMatrix:
    rng = np.random.default_rng(0)
    entries = {
        QUERY: ImportanceEntry(rng.random((1, 8)).astype(np.float32), np.array([40], np.float32)),
        EXPERTS: ImportanceEntry(rng.random((3, 4)).astype(np.float32), np.array([40, 2, 0], np.float32)),
    }
    return ImportanceMatrix(entries, ("a.txt", "b.txt"), 5, 8)


def write_with_gguf_py(path: Path, tensors: dict[str, np.ndarray], **changes: object) -> Path:
    """A file as llama-imatrix lays it out, by gguf-py's writer."""
    keys = {"type": "imatrix", "datasets": ["a.txt"], "chunk_count": 5, "chunk_size": 8} | changes
    writer = gguf.GGUFWriter(path, arch="", endianess=gguf.GGUFEndian.LITTLE)
    writer.kv_data[0].clear()
    if keys["type"] is not None:
        writer.add_string("general.type", str(keys["type"]))
    if keys["datasets"] is not None:
        writer.add_array("imatrix.datasets", keys["datasets"])
    if keys["chunk_count"] is not None:
        writer.add_uint32("imatrix.chunk_count", int(str(keys["chunk_count"])))
    if keys["chunk_size"] is not None:
        writer.add_uint32("imatrix.chunk_size", int(str(keys["chunk_size"])))
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def entry_of(sums: object, counts: object) -> dict[str, np.ndarray]:
    return {
        f"{QUERY}.in_sum2": np.asarray(sums, np.float32),
        f"{QUERY}.counts": np.asarray(counts, np.float32),
    }


def test_what_is_written_comes_back(tmp_path: Path) -> None:
    matrix = some_matrix()
    size = write_imatrix(tmp_path / "m.gguf", matrix)
    assert size == (tmp_path / "m.gguf").stat().st_size
    found = read_imatrix(tmp_path / "m.gguf")
    assert (found.datasets, found.chunk_count, found.chunk_size) == (("a.txt", "b.txt"), 5, 8)
    assert list(found.entries) == list(matrix.entries)
    for name, entry in matrix.entries.items():
        assert np.array_equal(found.entries[name].sums, entry.sums)
        assert np.array_equal(found.entries[name].counts, entry.counts)
    write_imatrix(tmp_path / "again.gguf", found)
    assert (tmp_path / "again.gguf").read_bytes() == (tmp_path / "m.gguf").read_bytes()


def test_the_file_has_the_tensors_of_llama_imatrix(tmp_path: Path) -> None:
    write_imatrix(tmp_path / "m.gguf", some_matrix())
    reader = gguf.GGUFReader(tmp_path / "m.gguf")
    shapes = {tensor.name: tuple(int(axis) for axis in tensor.shape) for tensor in reader.tensors}
    assert shapes == {
        f"{QUERY}.in_sum2": (8,),
        f"{QUERY}.counts": (1,),
        f"{EXPERTS}.in_sum2": (4, 3),
        f"{EXPERTS}.counts": (1, 3),
    }
    assert all(tensor.tensor_type == gguf.GGMLQuantizationType.F32 for tensor in reader.tensors)
    assert reader.get_field("general.type").contents() == "imatrix"
    assert reader.get_field("imatrix.datasets").contents() == ["a.txt", "b.txt"]
    assert reader.get_field("imatrix.chunk_count").contents() == 5


def test_a_file_by_gguf_py_is_read(tmp_path: Path) -> None:
    path = write_with_gguf_py(tmp_path / "m.gguf", entry_of([2, 4], [8]))
    assert np.array_equal(read_imatrix(path).entries[QUERY].importance(), [[0.25, 0.5]])


def test_a_matrix_without_inputs_counts_all_columns_alike() -> None:
    entry = some_matrix().entries[EXPERTS]
    assert entry.unmeasured == 1
    assert np.array_equal(entry.importance()[2], np.ones(4, np.float32))
    assert np.array_equal(entry.importance()[1], entry.sums[1] / 2)


def tensors_of(**shapes: tuple[int, ...]) -> dict[str, TensorInfo]:
    names = {"query": QUERY, "experts": EXPERTS}
    return {names[key]: TensorInfo(names[key], shape, "F32", 0, 0) for key, shape in shapes.items()}


def test_the_importance_of_a_model_has_its_shapes() -> None:
    found = importance_of_tensors(some_matrix(), tensors_of(query=(16, 8), experts=(3, 8, 4)), "m.gguf")
    assert found[QUERY].shape == (8,)
    assert found[EXPERTS].shape == (3, 4)
    assert found[QUERY].dtype == np.float32


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"query": (16, 8)}, f"{EXPERTS}: the model has no such matrix"),
        ({"query": (16, 9), "experts": (3, 8, 4)}, f"{QUERY}: 8 sums for 9 columns"),
        ({"query": (8,), "experts": (3, 8, 4)}, f"{QUERY}: the model has no such matrix"),
        ({"query": (16, 8), "experts": (2, 8, 4)}, f"{EXPERTS}: 12 sums for 2 matrices of 4 columns"),
        ({"query": (16, 8), "experts": (2, 8, 6)}, f"{EXPERTS}: 12 sums for 2 matrices of 6 columns"),
    ],
)
def test_a_matrix_of_another_model_is_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(FormatError) as error:
        importance_of_tensors(some_matrix(), tensors_of(**shapes), "m.gguf")
    assert f"m.gguf: tensor {message}" in str(error.value)
    assert error.value.hint == "the importance matrix belongs to another model"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (entry_of([1, np.nan], [8]), "a sum of squares is negative or not finite"),
        (entry_of([1, np.inf], [8]), "a sum of squares is negative or not finite"),
        (entry_of([1, -1], [8]), "a sum of squares is negative or not finite"),
        (entry_of([1, 1], [0]), "its count is zero"),
        (entry_of([1, 1], [1.5]), "the counts are no whole numbers"),
        (entry_of([1, 1], [-2]), "the counts are no whole numbers"),
        (entry_of([1, 1], [np.nan]), "the counts are no whole numbers"),
        (entry_of([1, 1, 1], [1, 1]), "3 sums for 2 counts"),
        (entry_of([1, 1], [1]) | {"output_norm.weight": np.ones(2, np.float32)}, "has no place in an importance"),
        ({f"{QUERY}.in_sum2": np.ones(2, np.float32)}, f"the tensor {QUERY}.counts is missing"),
        ({f"{QUERY}.counts": np.ones(1, np.float32)}, f"the tensor {QUERY}.in_sum2 is missing"),
        ({f"{QUERY}.in_sum2": np.ones(2, np.float16), f"{QUERY}.counts": np.ones(1, np.float32)}, "F16 values"),
        ({}, "the importance matrix is empty"),
    ],
)
def test_numbers_that_cannot_be_right_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    path = write_with_gguf_py(tmp_path / "m.gguf", tensors)
    with pytest.raises(FormatError) as error:
        read_imatrix(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "model"}, "this GGUF file is no importance matrix"),
        ({"type": None}, "this GGUF file is no importance matrix"),
        ({"datasets": None}, "key imatrix.datasets: no list of texts"),
        ({"datasets": [1, 2]}, "key imatrix.datasets: no list of texts"),
        ({"chunk_count": None}, "key imatrix.chunk_count: no number"),
        ({"chunk_size": None}, "key imatrix.chunk_size: no number"),
    ],
)
def test_keys_that_llama_quantize_needs(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = write_with_gguf_py(tmp_path / "m.gguf", entry_of([1, 1], [8]), **changes)
    with pytest.raises(FormatError) as error:
        read_imatrix(path)
    assert message in str(error.value)
    assert str(error.value.where).startswith(str(path))
    assert error.value.hint == "give a file that llama-imatrix or entrenar calibrate has written"


def test_the_old_binary_format_is_refused_with_a_way_out(tmp_path: Path) -> None:
    path = tmp_path / "old.dat"
    name = QUERY.encode()
    path.write_bytes(struct.pack("<ii", 1, len(name)) + name + struct.pack("<ii2f", 5, 2, 1.0, 2.0))
    with pytest.raises(FormatError, match="old binary format") as error:
        read_imatrix(path)
    assert error.value.hint is not None
    assert "llama-imatrix --in-file" in error.value.hint


def test_other_files_are_named_for_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1" + bytes(100))
    with pytest.raises(FormatError, match="a parquet file"):
        read_imatrix(path)
    with pytest.raises(FormatError, match="no such file"):
        read_imatrix(tmp_path / "missing.gguf")


def test_nothing_measured_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(FormatError, match="the importance matrix is empty") as error:
        write_imatrix(tmp_path / "m.gguf", ImportanceMatrix({}, (), 0, 8))
    assert error.value.where == str(tmp_path / "m.gguf")

"""Safetensors: tensors are where they are said to be, and a header that lies is refused before a byte is used."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from entrenar_core.errors import FormatError
from entrenar_core.hugging_face.safetensors_files import load_tensor, open_safetensors
from tests.hugging_face.folder import save_tensors

ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.float32), "c": np.array(5.0)}


def write_raw(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize("type_name", ["F32", "F16", "BF16"])
def test_what_the_library_wrote_is_read(type_name: str, tmp_path: Path) -> None:
    save_tensors(tmp_path / "model.safetensors", ARRAYS, type_name)
    files = open_safetensors(tmp_path)
    assert set(files.tensors) == set(ARRAYS)
    for name, values in ARRAYS.items():
        assert (files.tensors[name].shape, files.tensors[name].type_name) == (values.shape, type_name)
        np.testing.assert_array_equal(load_tensor(files, name), values)


def test_files_of_an_index_are_one_model(tmp_path: Path) -> None:
    save_file({"a": ARRAYS["a"]}, tmp_path / "model-2.safetensors")
    save_file({"b": ARRAYS["b"]}, tmp_path / "model-1.safetensors")
    places = {"a": "model-2.safetensors", "b": "model-1.safetensors"}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    files = open_safetensors(tmp_path)
    assert [path.name for path in files.paths] == ["model-1.safetensors", "model-2.safetensors"]
    for name in "ab":
        np.testing.assert_array_equal(load_tensor(files, name), ARRAYS[name])


@pytest.mark.parametrize(
    ("header", "data", "said"),
    [
        ({"w": entry("I64", (1,), (0, 8))}, bytes(8), "its type is I64; F32, F16 and BF16 can be read"),
        ({"w": entry(shape=(3,))}, bytes(8), r"F32 \[3\] has 12 bytes, but it is said to lie in bytes 0 to 8 of 8"),
        ({"w": entry(offsets=(8, 16))}, bytes(8), "it is said to lie in bytes 8 to 16 of 8"),
        ({"w": entry(offsets=(8, 0))}, bytes(8), "it is said to lie in bytes 8 to 0"),
        ({"w": entry(shape=(-2,))}, bytes(8), "the header does not describe it"),
        ({"w": entry(shape=(2.0,))}, bytes(8), "the header does not describe it"),
        ({"w": entry(shape=(True, 2))}, bytes(8), "the header does not describe it"),
        ({"w": entry(offsets=(0,))}, bytes(8), "the header does not describe it"),
        ({"w": [1, 2]}, bytes(8), "the header does not describe it"),
        ({"w": entry(shape=(0, 2), offsets=(0, 0))}, b"", "an axis without values"),
        ({"w": entry(shape=(1, 1, 1, 1, 2))}, bytes(8), "5 dimensions"),
        ({"w": entry(shape=(1 << 40, 1 << 40), offsets=(0, 8))}, bytes(8), "more values than a 64-bit integer"),
        ({"v": entry(offsets=(0, 8)), "w": entry(offsets=(4, 12))}, bytes(12), "its data overlaps that of w"),
    ],
)
def test_a_header_that_lies_is_refused_with_the_tensor(header: Any, data: bytes, said: str, tmp_path: Path) -> None:
    path = write_raw(tmp_path / "model.safetensors", header, data)
    with pytest.raises(FormatError, match=said) as caught:
        open_safetensors(tmp_path)
    assert str(caught.value.where).startswith(f"{path}: tensor ")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no safetensors file"),
        (struct.pack("<Q", 1 << 62), "a header of 4611686018427387904 bytes cannot be"),
        (struct.pack("<Q", 9) + b"{}", "a header of 9 bytes cannot be"),
        (struct.pack("<Q", 2) + b"[]", "no JSON object"),
        (struct.pack("<Q", 2) + b"{x", "no valid JSON"),
        (struct.pack("<Q", 3) + b"{\xff}", "no valid JSON"),
        (struct.pack("<Q", 40000) + b"[" * 40000, "no valid JSON"),
        (struct.pack("<Q", 15) + b'{"a":{},"a":{}}', "the key 'a' occurs twice"),
    ],
)
def test_what_is_no_header_is_refused_with_the_file(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(FormatError, match=said) as caught:
        open_safetensors(tmp_path)
    assert caught.value.where == str(tmp_path / "model.safetensors")


@given(damage=st.lists(st.tuples(st.integers(0, 250), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused(damage: list[tuple[int, int]], tmp_path_factory: Any) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    save_file({name: np.asarray(values, np.float32) for name, values in ARRAYS.items()}, folder / "model.safetensors")
    content = bytearray((folder / "model.safetensors").read_bytes())
    for place, byte in damage:
        content[place % len(content)] = byte
    (folder / "model.safetensors").write_bytes(content)
    try:
        files = open_safetensors(folder)
    except FormatError:
        return
    for name in files.tensors:
        load_tensor(files, name)


def lost_file(places: dict[str, Any]) -> None:
    places["a"] = "gone.safetensors"


def outside(places: dict[str, Any]) -> None:
    places["a"] = "../model-1.safetensors"


def not_text(places: dict[str, Any]) -> None:
    places["a"] = 3


def wrong_file(places: dict[str, Any]) -> None:
    places["a"], places["b"] = places["b"], places["a"]


def lost_tensor(places: dict[str, Any]) -> None:
    places["c"] = places["a"]


def unlisted(places: dict[str, Any]) -> None:
    del places["a2"]


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lost_file, "missing file: gone.safetensors"),
        (outside, "'../model-1.safetensors', which is no safetensors file of this folder"),
        (not_text, "in 3, which is no safetensors file"),
        (wrong_file, "the index says it is in"),
        (lost_tensor, "the tensor c is missing"),
        (unlisted, "the index lacks it"),
        (dict.clear, "the index names no tensors"),
    ],
)
def test_an_index_that_lies_is_refused(harm: Callable[[dict[str, Any]], None], said: str, tmp_path: Path) -> None:
    save_file({"a": ARRAYS["a"], "a2": ARRAYS["a"]}, tmp_path / "model-1.safetensors")
    save_file({"b": ARRAYS["b"]}, tmp_path / "model-2.safetensors")
    places: dict[str, Any] = {"a": "model-1.safetensors", "a2": "model-1.safetensors", "b": "model-2.safetensors"}
    harm(places)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(FormatError, match=said):
        open_safetensors(tmp_path)


def test_a_folder_of_pickles_is_refused_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(FormatError, match="pickles, which can run any code and are never opened") as caught:
        open_safetensors(tmp_path)
    assert "safe_serialization" in str(caught.value.hint)


def test_weights_under_another_name_are_pointed_at(tmp_path: Path) -> None:
    save_file({"a": ARRAYS["a"]}, tmp_path / "consolidated.safetensors")
    with pytest.raises(FormatError, match=r"there is no model\.safetensors") as caught:
        open_safetensors(tmp_path)
    assert "consolidated.safetensors" in str(caught.value.hint)

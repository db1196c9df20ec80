"""Paths that lead to no model: one clear error each, with a hint."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from tests.gguf.build_small import small_model


def refusal(path: Path) -> FormatError:
    with pytest.raises(FormatError) as caught:
        GGUFFile.open(path)
    assert caught.value.where == str(path)
    assert caught.value.hint
    return caught.value


def test_a_missing_file_gets_the_nearest_name(tmp_path: Path) -> None:
    small_model().write(tmp_path / "tinyllama.gguf")
    error = refusal(tmp_path / "tinylama.gguf")
    assert "no such file" in error.message
    assert error.hint == f"did you mean {tmp_path / 'tinyllama.gguf'}?"


def test_a_missing_folder_is_said(tmp_path: Path) -> None:
    assert "folder" in str(refusal(tmp_path / "nowhere" / "m.gguf").hint)


def test_a_folder_is_refused_and_its_model_named(tmp_path: Path) -> None:
    assert "path of a .gguf file" in str(refusal(tmp_path).hint)
    small_model().write(tmp_path / "m.gguf")
    assert str(tmp_path / "m.gguf") in str(refusal(tmp_path).hint)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert "0 bytes" in refusal(tmp_path / "m.gguf").message


def test_a_pipe_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.gguf")
    assert "not a regular file" in refusal(tmp_path / "m.gguf").message


def test_a_path_with_a_null_byte_or_of_endless_length_is_refused(tmp_path: Path) -> None:
    assert "cannot be opened" in refusal(tmp_path / ("x" * 300)).message
    assert "cannot be opened" in refusal(tmp_path / "a\0b").message


def test_another_file_format_is_refused_with_the_path(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"PK\3\4" + bytes(100))
    assert "PyTorch" in refusal(tmp_path / "m.gguf").message

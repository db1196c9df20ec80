"""Rows of a file are read into buffers, whatever other threads do meanwhile; a file that fails is named."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.writer import encode_tensor, write_gguf
from entrenar_core.quant import source as source_module
from entrenar_core.quant.source import RowSource


def test_rows_are_read_where_they_are(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    write_gguf(tmp_path / "m.gguf", [], [encode_tensor(name, values + place, "F32") for place, name in enumerate("ab")])
    with GGUFFile.open(tmp_path / "m.gguf") as file, RowSource(file) as source:
        out = np.empty(32, np.uint8)
        source.read(file.tensors["b"], 2 * 16, out)
    assert np.array_equal(out.view("<f4"), (values[2:4] + 1).reshape(-1))


def test_a_system_that_reads_little_at_a_time_is_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda descriptor, views, offset: real(descriptor, [views[0][:7]], offset))
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    write_gguf(tmp_path / "m.gguf", [], [encode_tensor("w", values, "F32")])
    with GGUFFile.open(tmp_path / "m.gguf") as file, RowSource(file) as source:
        out = np.empty(32, np.uint8)
        source.read(file.tensors["w"], 16, out)
    assert np.array_equal(out.view("<f4"), values[1:3].reshape(-1))


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system cannot be asked to read ahead")
def test_what_comes_next_is_asked_for_once_and_without_gaps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda descriptor, start, size, advice: asked.append((start, start + size))
    )
    monkeypatch.setattr(source_module, "AHEAD_BYTES", 1024)
    write_gguf(tmp_path / "m.gguf", [], [encode_tensor("w", np.ones((64, 64), np.float32), "F32")])
    with GGUFFile.open(tmp_path / "m.gguf") as file, RowSource(file) as source:
        info = file.tensors["w"]
        for first in range(0, 16384, 256):
            source.read(info, first, np.empty(256, np.uint8))
            assert asked[-1][1] >= info.offset + first + 256 + 512, "at least half of the distance lies ahead"
    assert asked[0] == (info.offset + 256, info.offset + 256 + 1024)
    assert all(later[0] == earlier[1] for earlier, later in itertools.pairwise(asked))
    assert len(asked) < 35, "not with every read"


class Moving(list[int]):
    """A number that another thread moves far ahead as soon as it has been looked at."""

    def __getitem__(self, index: object) -> int:  # type: ignore[override]
        value = super().__getitem__(0)
        super().__setitem__(0, 1 << 40)
        return value


def test_another_thread_may_ask_further_ahead_at_any_moment(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, [], [encode_tensor("w", np.ones((64, 64), np.float32), "F32")])
    with GGUFFile.open(path) as file, RowSource(file) as source:
        source._asked = Moving([0])
        out = np.empty(4096, np.uint8)
        source.read(file.tensors["w"], 4096, out)
    assert (out.view("<f4") == 1).all()


def shorten(path: Path, descriptor: int) -> None:
    del descriptor
    os.truncate(path, 200)


def close(path: Path, descriptor: int) -> None:
    del path
    os.close(descriptor)


@pytest.mark.parametrize(("harm", "said"), [(shorten, "has become shorter"), (close, "cannot be read: Bad file")])
def test_a_file_that_fails_while_it_is_read_is_named(
    harm: Callable[[Path, int], None], said: str, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    write_gguf(path, [], [encode_tensor("w", np.zeros((64, 64), np.float32), "F32")])
    file = GGUFFile.open(path)
    source = RowSource(file)
    harm(path, source._descriptors[0])
    with pytest.raises(FormatError, match=said) as info:
        source.read(file.tensors["w"], 4096, np.empty(4096, np.uint8))
    assert info.value.where == f"{path}: tensor w"
    if harm is close:
        source._descriptors.clear()
    source.close()

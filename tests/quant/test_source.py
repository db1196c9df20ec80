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
from tests.gguf.build_small import SmallGGUF, floats, small_model


def test_rows_are_read_where_they_are(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(6, 4)
    write_gguf(tmp_path / "m.gguf", [], [encode_tensor(name, values + place, "F32") for place, name in enumerate("ab")])
    with GGUFFile.open(tmp_path / "m.gguf") as file, RowSource(file) as source:
        out = np.empty(32, np.uint8)
        source.read(file.tensors["b"], 2 * 16, out)
    assert np.array_equal(out.view("<f4"), (values[2:4] + 1).reshape(-1))


def test_each_shard_is_read_from_its_own_file(tmp_path: Path) -> None:
    for number, size in enumerate((2, 3)):
        small = SmallGGUF().string("general.architecture", b"llama").entry("split.tensors.count", 5, b"\2\0\0\0")
        small.entry("split.no", 2, small.pack("H", number)).entry("split.count", 2, b"\2\0")
        small.tensor(f"w{number}", (size,), 0, floats(size, "<f4")).write(tmp_path / f"m-{number + 1:05}-of-00002.gguf")
    with GGUFFile.open(tmp_path / "m-00001-of-00002.gguf") as file, RowSource(file) as source:
        for name, values in (("w1", [0.5, 1.5, 2.5]), ("w0", [0.5, 1.5])):
            out = np.empty(4 * len(values), np.uint8)
            source.read(file.tensors[name], 0, out)
            assert out.view("<f4").tolist() == values
        assert source.where(file.tensors["w1"]) == f"{tmp_path / 'm-00002-of-00002.gguf'}: tensor w1"


def test_the_other_byte_order_is_turned_where_a_type_allows_it(tmp_path: Path) -> None:
    blocks = bytes(range(36))
    small = small_model(">").tensor("q", (32, 2), 2, blocks)
    with GGUFFile.open(small.write(tmp_path / "big.gguf")) as file, RowSource(file) as source:
        for name, dtype, row in (("token_embd.weight", "<f4", 4), ("blk.0.attn_q.weight", "<f2", 4)):
            out = np.empty(row * np.dtype(dtype).itemsize, np.uint8)
            source.read(file.tensors[name], out.nbytes, out)
            assert out.view(dtype).tolist() == [4.5, 5.5, 6.5, 7.5]
        with pytest.raises(FormatError, match="Q4_0 blocks of a big-endian file cannot be read") as error:
            source.read(file.tensors["q"], 0, np.empty(18, np.uint8))
        assert error.value.where == f"{tmp_path / 'big.gguf'}: tensor q"
        assert "gguf_convert_endian.py" in str(error.value.hint)


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
    assert info.value.hint == ("check the disk" if harm is close else None)
    if harm is close:
        source._descriptors.clear()
    source.close()


def test_the_rows_before_the_end_of_a_shortened_file_are_read(tmp_path: Path) -> None:
    path, values = tmp_path / "m.gguf", np.arange(256, dtype=np.float32).reshape(4, 64)
    write_gguf(path, [], [encode_tensor("w", values, "F32")])
    with GGUFFile.open(path) as file, RowSource(file) as source:
        os.truncate(path, file.tensors["w"].offset + 3 * 256)
        out = np.empty(256, np.uint8)
        source.read(file.tensors["w"], 512, out)
        assert np.array_equal(out.view("<f4"), values[2])
        with pytest.raises(FormatError, match="has become shorter"):
            source.read(file.tensors["w"], 768, out)


def test_a_closed_source_holds_no_file_and_reads_nothing(tmp_path: Path) -> None:
    write_gguf(tmp_path / "m.gguf", [], [encode_tensor("w", np.zeros((4, 64), np.float32), "F32")])
    with GGUFFile.open(tmp_path / "m.gguf") as file:
        with RowSource(file) as source:
            descriptor = source._descriptors[0]
            os.fstat(descriptor)
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
        source.close()
        with pytest.raises(IndexError):
            source.read(file.tensors["w"], 0, np.empty(256, np.uint8))

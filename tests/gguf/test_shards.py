"""Models in several files."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.writer import copy_tensor, write_gguf
from tests.gguf.build_small import SmallGGUF, floats


def shard(number: int, count: int = 3, total: int = 3) -> SmallGGUF:
    small = SmallGGUF()
    if number == 0:
        small.string("general.architecture", b"llama").uint32("llama.block_count", 3)
    small.entry("split.no", 2, small.pack("H", number)).entry("split.count", 2, small.pack("H", count))
    small.entry("split.tensors.count", 5, small.pack("i", total))
    return small.tensor(f"w{number}", (2 + number,), 0, floats(2 + number, "<f4"))


def write_shards(folder: Path) -> list[Path]:
    return [shard(number).write(folder / f"big-{number + 1:05}-of-00003.gguf") for number in range(3)]


@pytest.mark.parametrize("opened", [0, 1, 2])
def test_any_shard_opens_all(opened: int, tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    file = GGUFFile.open(paths[opened])
    assert file.paths == paths
    assert file.metadata["llama.block_count"] == 3
    assert [(info.name, info.shard) for info in file.tensors.values()] == [("w0", 0), ("w1", 1), ("w2", 2)]
    assert file.load("w2").tolist() == [0.5, 1.5, 2.5, 3.5]


def test_shards_are_rewritten_as_one_whole_file(tmp_path: Path) -> None:
    file = GGUFFile.open(write_shards(tmp_path)[0])
    write_gguf(tmp_path / "one.gguf", file.metadata_entries(), [copy_tensor(file, name) for name in file.tensors])
    whole = GGUFFile.open(tmp_path / "one.gguf")
    assert list(whole.metadata) == ["general.architecture", "llama.block_count"]
    assert whole.load("w1").tolist() == [0.5, 1.5, 2.5]


def test_missing_shards_are_named(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    paths[1].unlink()
    with pytest.raises(FormatError, match=r"missing shard: .*big-00002-of-00003\.gguf\n"):
        GGUFFile.open(paths[0])
    paths[2].unlink()
    with pytest.raises(FormatError, match=r"big-00002-of-00003.*big-00003-of-00003"):
        GGUFFile.open(paths[0])


def test_a_shard_under_another_name_is_refused(tmp_path: Path) -> None:
    path = shard(1).write(tmp_path / "renamed.gguf")
    with pytest.raises(FormatError, match=r"one of 3 shards, but its name does not end in -NNNNN-of-00003\.gguf"):
        GGUFFile.open(path)


def test_shards_in_the_wrong_order_are_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    paths[1].write_bytes(shard(2).build())
    with pytest.raises(FormatError, match=r"00002-of-00003\.gguf: key split\.no: the value is 2, .* means 1"):
        GGUFFile.open(paths[0])


def test_a_file_that_is_no_shard_among_shards_is_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    SmallGGUF().tensor("w1", (2,), 0, bytes(8)).write(paths[1])
    with pytest.raises(FormatError, match=r"key split\.no: the shard number is missing"):
        GGUFFile.open(paths[0])


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    twice = shard(2)
    twice.tensors = shard(1).tensors
    twice.write(paths[2])
    with pytest.raises(FormatError, match=r"tensor w1: the tensor is also in .*00002-of-00003"):
        GGUFFile.open(paths[0])


def test_a_wrong_total_of_tensors_is_refused(tmp_path: Path) -> None:
    paths = write_shards(tmp_path)
    shard(0, total=9).write(paths[0])
    with pytest.raises(FormatError, match="should have 9 tensors, its shards hold 3"):
        GGUFFile.open(paths[0])


def test_a_split_count_that_is_no_number_is_refused(tmp_path: Path) -> None:
    path = SmallGGUF().string("split.count", b"3").write(tmp_path / "m.gguf")
    with pytest.raises(FormatError, match="no whole number"):
        GGUFFile.open(path)


def test_a_single_file_may_look_like_a_shard(tmp_path: Path) -> None:
    path = SmallGGUF().tensor("w", (1,), 0, bytes(4)).write(tmp_path / "x-00001-of-00002.gguf")
    assert list(GGUFFile.open(path).tensors) == ["w"]

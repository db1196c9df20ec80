"""Space that is reserved while something else is done."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from entrenar_core.gguf.reserve import reserved


def test_the_file_has_its_size_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"header")
    with path.open("r+b") as file, reserved(file.fileno(), 100_000):
        pass
    assert path.read_bytes() == b"header" + bytes(99_994)


def test_what_the_block_raises_comes_out(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(KeyError, match="inside"), reserved(file.fileno(), 10):
        raise KeyError("inside")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system cannot reserve space")
def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with (
        (tmp_path / "file").open("wb") as file,
        pytest.raises(OSError, match=r"space|large"),
        reserved(file.fileno(), 1 << 60),
    ):
        pass


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_that_cannot_reserve_is_written_to_all_the_same(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(number, "not here")

    monkeypatch.setattr(os, "posix_fallocate", refuse, raising=False)
    with (tmp_path / "file").open("wb") as file, reserved(file.fileno(), 10):
        file.write(b"content")
    assert (tmp_path / "file").read_bytes() == b"content"

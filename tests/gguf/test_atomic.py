"""Files that are replaced as a whole: what stands under the name before and after."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import FrameType

import pytest

from entrenar_core.errors import OutputError
from entrenar_core.gguf.atomic import atomic_file, check_writable, open_new


def test_a_file_is_new_or_old(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), atomic_file(path) as file:
        file.write(b"half")
        raise KeyError
    assert path.read_bytes() == b"old"
    with atomic_file(path) as file:
        file.write(b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["file"]


def test_the_file_behind_a_link_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    target, link = tmp_path / "folder" / "target", tmp_path / "link"
    target.write_bytes(b"old")
    link.symlink_to(target)
    with atomic_file(link) as file:
        file.write(b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "folder") == ["target"]


def test_a_pipe_is_left_alone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="a device or a pipe"), atomic_file(tmp_path / "pipe"):
        pass
    assert (tmp_path / "pipe").is_fifo()


def test_an_interrupt_while_a_place_is_tried_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C comes when the temporary file is made and not yet removed."""
    seen: list[list[str]] = []

    def interrupt(frame: FrameType, event: str, result: object) -> None:
        del result
        if event == "return" and frame.f_code is open_new.__code__:
            seen.append([path.suffix for path in tmp_path.iterdir()])
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            check_writable(tmp_path / "x.gguf")
    finally:
        sys.setprofile(before)
    assert seen == [[".partial"]]
    assert list(tmp_path.iterdir()) == []

"""Plain text files are read as they stand."""

from __future__ import annotations

from pathlib import Path

import pytest

from entrenar_core.data.plain_text import is_plain_text, read_plain_text
from entrenar_core.errors import DataError


def test_the_text_is_what_stands_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes("é\r\n\ttwo\n\n".encode())
    assert read_plain_text(str(path)) == "é\r\n\ttwo\n"


@pytest.mark.parametrize(("name", "is_text"), [("a.txt", True), ("wiki.test.RAW", True), ("a.jsonl", False)])
def test_the_ending_says_that_it_is_text(name: str, is_text: bool, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert is_plain_text(str(tmp_path / name)) is is_text
    assert not is_plain_text(str(tmp_path / "none.txt"))


def test_what_is_no_text_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\ntwo \xff")
    with pytest.raises(DataError, match="byte 8 is not UTF-8") as caught:
        read_plain_text(str(path))
    assert caught.value.where == f"{path}, line 2"
    path.write_bytes(b"\n")
    with pytest.raises(DataError, match="has no text"):
        read_plain_text(str(path))
    with pytest.raises(DataError, match="cannot be read"):
        read_plain_text(str(tmp_path / "none.txt"))

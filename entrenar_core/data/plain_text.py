"""Plain text files: one long text, read as it stands. They have no rows, so training does not take them."""

from __future__ import annotations

from pathlib import Path

from entrenar_core.errors import DataError

SUFFIXES = (".txt", ".text", ".raw")
"""Endings of files that are taken as plain text; the last one is that of WikiText's."""


def is_plain_text(path: str) -> bool:
    """Whether a path means a file that is one text."""
    return Path(path).suffix.lower() in SUFFIXES and Path(path).expanduser().is_file()


def read_plain_text(path: str) -> str:
    """The text of a file, line ends as they are, but without one at its end (llama.cpp's ``-f`` drops that too).

    Raises:
        DataError: it cannot be read, is not UTF-8 or is empty.
    """
    try:
        raw = Path(path).expanduser().read_bytes()
    except OSError as error:
        raise DataError(f"the file cannot be read: {error.strerror or error}", where=path) from error
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"byte {error.start} is not UTF-8"
        raise DataError(message, where=f"{path}, line {line}", hint="convert the file to UTF-8") from error
    text = text.removesuffix("\n")
    if not text:
        raise DataError("the file has no text", where=path)
    return text

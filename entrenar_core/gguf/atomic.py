"""Writes a file so that a crash leaves the old one or the new one, never half of one.

The data goes to a temporary name in the same folder, is forced to disk, and takes the final name in one step. Whatever
goes wrong, Ctrl-C included, the temporary file is removed.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from entrenar_core.errors import OutputError

_BUFFER_BYTES = 1 << 20
_RANDOM_BYTES, _PARTIAL = 4, ".partial"


@contextmanager
def atomic_file(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends without an error.

    `check` gets the path of the complete temporary file before it takes its name, and may raise to prevent that.
    Raises OutputError when the folder is missing or cannot be written, or the disk is full.
    """
    if path.is_symlink():  # the file that a link leads to is replaced, not the link
        path = Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}{_PARTIAL}")
    try:
        if path.is_dir():
            raise OutputError("there is a folder of this name", where=str(path), hint="choose another file name")
        if path.exists() and not path.is_file():
            raise OutputError(
                "this is a device or a pipe, not a file", where=str(path), hint="choose another file name"
            )
        with open_new(temporary) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if check is not None:
            check(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"the file cannot be written: {error.strerror or error}", where=str(path), hint=_hint(path)
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def remove_partial_files(path: Path) -> None:
    """Remove what a process that was killed while it wrote `path` has left. No other process may be writing it."""
    prefix = f".{path.name}."
    for name in os.listdir(path.parent):
        is_ours = name.startswith(prefix) and name.endswith(_PARTIAL)
        if is_ours and len(name) == len(prefix) + 2 * _RANDOM_BYTES + len(_PARTIAL):
            (path.parent / name).unlink()


def open_new(path: Path) -> BinaryIO:
    """A new file with the access rights that the user's umask gives; OSError when it exists."""
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | getattr(os, "O_BINARY", 0), 0o666)
    return os.fdopen(descriptor, "wb", buffering=_BUFFER_BYTES)


def sync(path: Path) -> None:
    """Force a file's content, or a folder's list of names, to disk, so that it survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hint(path: Path) -> str:
    if not path.parent.is_dir():
        return f"create the folder {path.parent} first"
    return "free some space, or choose a folder that you may write to"

"""Writes a file so that a crash leaves the old one or the new one, never half of one.

The data goes to a temporary name in the same folder, is forced to disk, and takes the final name in one step. Whatever
goes wrong, Ctrl-C included, the temporary file is removed.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from entrenar_core.errors import OutputError

_BUFFER_BYTES = 1 << 20
_RANDOM_BYTES, _PARTIAL = 4, ".partial"
_UNFINISHED = re.compile(rf"\.(.+)\.[0-9a-f]{{{2 * _RANDOM_BYTES}}}{re.escape(_PARTIAL)}", re.DOTALL)


@contextmanager
def atomic_file(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[BinaryIO]:
    """A binary file to write to, which becomes `path` when the block ends without an error.

    `check` gets the path of the complete temporary file before it takes its name, and may raise to prevent that.
    Raises OutputError when the folder is missing or cannot be written, or the disk is full.
    """
    path, temporary = _names(path)
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
        raise _not_writable(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def check_writable(path: Path) -> None:
    """See that `atomic_file` could begin to write `path`: its temporary file is made and removed.

    Raises:
        OutputError: it cannot be made: the folder does not allow it, the name is too long ...
    """
    path, temporary = _names(path)
    try:
        try:
            open_new(temporary).close()
        finally:  # an interrupt must not leave it
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise _not_writable(path, error) from error


def _names(path: Path) -> tuple[Path, Path]:
    """The file that will be replaced (not a link that leads to it), and a temporary name beside it."""
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    return path, path.with_name(f".{path.name}.{secrets.token_hex(_RANDOM_BYTES)}{_PARTIAL}")


def _not_writable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"the file cannot be written: {error.strerror or error}", where=str(path), hint=_hint(path))


def remove_partial_files(folder: Path, names: Collection[str]) -> None:
    """Remove what processes that were killed while they wrote the files `names` of a folder have left. No other process
    may be writing one of them."""
    for name in os.listdir(folder):
        unfinished = _UNFINISHED.fullmatch(name)
        if unfinished is not None and unfinished[1] in names:
            (folder / name).unlink()


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

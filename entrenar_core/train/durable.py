"""Files that survive a crash: written under another name, brought to disk, then renamed."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from entrenar_core.errors import OutputError

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders begin."""


def sync(path: Path) -> None:
    """Bring a file's content, or a folder's list of names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file as a whole; a crash leaves the old one or the new one.

    Raises:
        OutputError: it cannot be written.
    """
    temporary = path.with_name(TEMPORARY + path.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(f"cannot be written: {error.strerror}", where=str(path)) from error


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

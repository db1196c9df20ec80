"""Files that survive a crash: written under another name, brought to disk, then renamed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from entrenar_core.errors import OutputError
from entrenar_core.gguf.atomic import sync

TEMPORARY = ".tmp-"
"""How the names of unfinished files and folders begin."""


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

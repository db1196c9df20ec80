"""Writes a folder so that a crash leaves the old one or the new one, never half of one.

The files go into a folder of a temporary name beside it, which takes the final name in one step. A folder that was
there is put aside for that moment. Whatever goes wrong, the temporary folder is removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from entrenar_core.errors import OutputError
from entrenar_core.gguf.atomic import sync

_OF_A_MODEL = (".safetensors", ".json", ".jinja", ".model", ".txt", ".md")
"""How the names of files in a model folder end; a folder with anything else in it is not replaced."""


@contextmanager
def atomic_folder(path: Path, check: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """A new folder to put files into, which becomes `path` when the block ends without an error.

    `check` gets the complete temporary folder before it takes its name, and may raise to prevent that.

    Raises:
        OutputError: the folder around it is missing or cannot be written, the disk is full, or what has this name is no
            model folder, which could be replaced.
    """
    check_replaceable(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        temporary.mkdir()
        yield temporary
        for file in temporary.iterdir():
            sync(file)
        sync(temporary)
        if check is not None:
            check(temporary)
        _put_in_place(temporary, path)
        sync(path.parent)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be written: {error.strerror or error}",
            where=str(path),
            hint="free some space, or choose a folder that you may write to",
        ) from error
    finally:
        with suppress(OSError):
            shutil.rmtree(temporary)


def check_replaceable(path: Path) -> None:
    """See that nothing but a model folder would be replaced.

    Raises:
        OutputError: it is a file or a link, or has other files or folders in it.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise OutputError("this is no folder", where=str(path), hint="choose another name")
    foreign = [one.name for one in path.iterdir() if not _is_of_a_model(one)] if path.is_dir() else []
    if foreign:
        raise OutputError(
            f"the folder holds {foreign[0]}, which is no part of a model", where=str(path), hint="choose another name"
        )


def _is_of_a_model(path: Path) -> bool:
    return path.is_file() and path.name.endswith(_OF_A_MODEL)


def _put_in_place(temporary: Path, path: Path) -> None:
    if not path.exists():
        temporary.rename(path)
        return
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        os.rename(old, path)
        raise
    shutil.rmtree(old)

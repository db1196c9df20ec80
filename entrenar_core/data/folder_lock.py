"""One process at a time writes to a folder; the system lets go of the lock when that process ends, however it ends."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from entrenar_core.errors import OutputError

LOCK = ".lock"
"""An empty file that stays in the folder: a lock is bound to a file, and one that is removed could be held twice."""

_TAKEN = (errno.EAGAIN, errno.EACCES)


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder that exists.

    Raises:
        OutputError: another process, or another place of this one, holds it; or the folder cannot be written to.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o666)
    except OSError as error:
        raise OutputError(
            f"the folder cannot be written to: {error.strerror}",
            where=str(folder),
            hint="choose a folder that you may write to",
        ) from error
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _TAKEN:
            raise OutputError(
                "another process is writing to this folder", where=str(folder), hint="wait until it is done"
            ) from error
        raise OutputError(
            f"the folder cannot be locked against other processes: {error.strerror}",
            where=str(folder),
            hint="choose a folder on a local disk",
        ) from error

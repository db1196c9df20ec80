"""The folder of a run: checked before any work is done, made when there is something to write."""

from __future__ import annotations

import os
from pathlib import Path

from entrenar_core.errors import OutputError


def check_output_dir(folder: Path) -> None:
    """See whether the folder exists or could be made, without making it.

    Raises:
        OutputError: it is a file, below a file, or in a place that cannot be written.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{existing} is a file, not a folder", where=str(folder), hint="choose another output_dir")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder {existing} cannot be written", where=str(folder), hint="choose another training.output_dir"
        )


def make_output_dir(folder: Path) -> None:
    """Make the folder.

    Raises:
        OutputError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error

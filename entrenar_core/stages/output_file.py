"""Whether a file may be written where a command is asked to write it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from entrenar_core.errors import OutputError
from entrenar_core.gguf.atomic import check_writable
from entrenar_core.gguf.shards import shards_beside


def plain_files(*paths: str | None) -> list[Path]:
    """Those that are files, with all shards of a model: no folders, no patterns, nothing that is missing."""
    files = [Path(path) for path in paths if path is not None and Path(path).is_file()]
    return [shard for file in files for shard in shards_beside(file)]


def check_output(path: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    """See that the output may be written, before any work is done.

    Raises:
        OutputError: it is one of the inputs (by another name too), is there already, or cannot be made in its folder.
    """
    try:
        _check_place(path, inputs, overwrite=overwrite)
    except OSError as error:
        message = f"the file cannot be written: {error.strerror or error}"
        raise OutputError(message, where=str(path), hint="choose another name with -o") from error
    check_writable(path)


def _check_place(path: Path, inputs: Sequence[Path], *, overwrite: bool) -> None:
    if path.is_dir():
        raise OutputError(
            "there is a folder of this name", where=str(path), hint=f"name a file in it: -o {path}/NAME.gguf"
        )
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} does not exist", where=str(path), hint=f"mkdir -p {path.parent}")
    if path.exists():
        if not path.is_file():
            raise OutputError(
                "this is a device or a pipe, not a file", where=str(path), hint="choose another name with -o"
            )
        if any(os.path.samefile(path, one) for one in inputs):
            raise OutputError(
                "this is the file that is read; it would be lost", where=str(path), hint="choose another name with -o"
            )
        if not overwrite:
            raise OutputError("the file is there already", where=str(path), hint="replace it with --overwrite")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise OutputError(
            f"the folder {path.parent} cannot be written", where=str(path), hint="choose another folder with -o"
        )

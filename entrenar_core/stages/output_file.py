"""Whether a file may be written where a command is asked to write it, and the reports beside models."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from entrenar_core.errors import ConfigError, OutputError
from entrenar_core.events import Saved
from entrenar_core.gguf.atomic import atomic_file, check_writable
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


def named_output(path: str | None) -> Path:
    """The path of the output. Raises ConfigError where a command that writes was given none."""
    if path is None:
        raise ConfigError("no file to write is named", where="output.path", hint="-o OUT.gguf")
    return Path(path)


def check_report(path: Path, inputs: Sequence[Path], output: Path | None, *, overwrite: bool) -> None:
    """See before the work that a report can be written after it; `output` is the model beside it.

    Raises:
        OutputError: see `check_output`; or it has the name of the model.
    """
    try:
        check_output(path, inputs, overwrite=overwrite)
    except OutputError as error:
        error.hint = (error.hint or "").replace("with -o", "with --report") or None
        raise
    if output is not None and path.absolute() == output.absolute():
        raise OutputError("this is the name of the model", where=str(path), hint="choose another name with --report")


def save_report(path: Path, document: Mapping[str, object]) -> Saved:
    """Write a report as JSON."""
    content = json.dumps(document, indent=2, allow_nan=False).encode()
    with atomic_file(path) as file:
        file.write(content)
    return Saved("report", path, len(content))


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

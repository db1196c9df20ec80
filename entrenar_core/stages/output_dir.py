"""The folder of a run: checked before any work is done, made when there is something to write."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from entrenar_core.errors import OutputError
from entrenar_core.gguf.atomic import remove_partial_files
from entrenar_core.model.head_file import HEAD_FILE
from entrenar_core.train.checkpoint_store import CHECKPOINTS

METRICS, RESOLVED, REPORT = "metrics.jsonl", "config.resolved.yaml", "export-report.json"
MODEL, ADAPTER = "model.gguf", "adapter.gguf"
RESULTS = (MODEL, ADAPTER, HEAD_FILE)

_OTHER_FOLDER = "choose another training.output_dir"


def check_output_dir(folder: Path, inputs: Iterable[Path] = ()) -> None:
    """See whether the folder exists or could be made, without making it.

    Args:
        folder: of the run.
        inputs: files that are read, and must not be written over.

    Raises:
        OutputError: it is a file, below a file, or in a place that cannot be written; or what would be written has the
            name of a folder or of an input.
    """
    try:
        _check_place(folder)
        for name in (METRICS, RESOLVED, REPORT, *RESULTS):
            _check_file(folder / name, inputs)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise OutputError(f"this cannot be a folder: {reason}", where=str(folder), hint=_OTHER_FOLDER) from error


def _check_place(folder: Path) -> None:
    existing = folder
    while not _is_there(existing):
        existing = existing.parent
    if not existing.is_dir():
        raise OutputError(f"{existing} is a file, not a folder", where=str(folder), hint=_OTHER_FOLDER)
    if not os.access(existing, os.W_OK | os.X_OK):
        raise OutputError(f"the folder {existing} cannot be written", where=str(folder), hint=_OTHER_FOLDER)


def _is_there(path: Path) -> bool:
    """Also for a link that leads nowhere. OSError or ValueError for a name that no file can have."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _check_file(path: Path, inputs: Iterable[Path]) -> None:
    if path.is_dir():
        raise OutputError("a folder has the name of a file that the run writes", where=str(path), hint=_OTHER_FOLDER)
    if path.exists() and any(one.exists() and path.samefile(one) for one in inputs):
        raise OutputError("the run reads this file and would write over it", where=str(path), hint=_OTHER_FOLDER)


def require_no_results(folder: Path) -> None:
    """Refuse to write over the results of an earlier run.

    Raises:
        OutputError: there is a model or an adapter.
    """
    for name in RESULTS:
        if (folder / name).exists():
            raise OutputError(
                "this is the result of an earlier run",
                where=str(folder / name),
                hint=f"{_OTHER_FOLDER}, or replace it with --overwrite",
            )


def clear_output_dir(folder: Path) -> None:
    """Remove the checkpoints, results and metrics of an earlier run, and nothing else.

    Raises:
        OutputError: the system refuses.
    """
    try:
        if (folder / CHECKPOINTS).is_dir():
            shutil.rmtree(folder / CHECKPOINTS)
        for name in (METRICS, RESOLVED, REPORT, *RESULTS):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"the earlier run cannot be removed: {error.strerror}", where=str(folder)) from error


def make_output_dir(folder: Path) -> None:
    """Make the folder; remove the unfinished files that a run which was killed has left there.

    Raises:
        OutputError: the system refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_partial_files(folder, (RESOLVED, REPORT, *RESULTS))
    except OSError as error:
        raise OutputError(f"the folder cannot be made: {error.strerror}", where=str(folder)) from error

"""The checkpoints of one run: writing the next, finding the newest, keeping the last few and the best."""

from __future__ import annotations

import shutil
from pathlib import Path

from entrenar_core.errors import FormatError, OutputError
from entrenar_core.events import Notice, Reporter, Saved
from entrenar_core.optim.base import Optimizer
from entrenar_core.train.checkpoint import (
    Checkpoint,
    RunRecord,
    folder_name,
    read_checkpoint,
    step_of_folder,
    write_checkpoint,
)
from entrenar_core.train.durable import TEMPORARY
from entrenar_core.train.state import TrainState

CHECKPOINTS = "checkpoints"
"""Name of the folder of checkpoints in the output folder."""


class CheckpointStore:
    """A folder of checkpoints.

    Args:
        folder: ``output_dir/checkpoints``; made when the first one is saved.
        record: what the run is made from, written into each of them.
        keep_last: how many of the newest stay; the best stays besides.
    """

    def __init__(self, folder: Path, record: RunRecord, *, keep_last: int = 2) -> None:
        self.folder = folder
        self.record = record
        self.keep_last = keep_last

    def require_empty(self) -> None:
        """Refuse to mix two runs.

        Raises:
            OutputError: there are checkpoints of an earlier run.
        """
        steps = self.steps()
        if steps:
            raise OutputError(
                f"there are checkpoints of an earlier run (the newest of step {steps[-1]})",
                where=str(self.folder),
                hint="go on from them with --resume, replace them with --overwrite, or use another training.output_dir",
            )

    def steps(self) -> list[int]:
        """The steps that have a folder, ascending; not all of them need be whole."""
        if not self.folder.is_dir():
            return []
        return sorted(step for path in self.folder.iterdir() if (step := step_of_folder(path)) is not None)

    def path(self, step: int) -> Path:
        """Where the checkpoint of `step` is, or would be."""
        return self.folder / folder_name(step)

    def save(self, state: TrainState, optimizer: Optimizer) -> Saved:
        """Write a checkpoint and remove those that are no longer kept.

        Raises:
            OutputError: it cannot be written.
        """
        parameters = {name: parameter.numpy() for name, parameter in optimizer.parameters.items()}
        path = write_checkpoint(self.folder, state, self.record, parameters, optimizer.state())
        self._prune(state.best_step)
        return Saved("checkpoint", path, sum(file.stat().st_size for file in path.iterdir()))

    def discard_after(self, step: int) -> None:
        """Remove the checkpoints of later steps: the run goes on from `step` and will write them again."""
        for later in self.steps():
            if later > step:
                self._remove(later)

    def _prune(self, best_step: int | None) -> None:
        for step in self.steps()[: -self.keep_last]:
            if step != best_step:
                self._remove(step)
        for leftover in self.folder.glob(f"{TEMPORARY}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _remove(self, step: int) -> None:
        """Remove a checkpoint; it loses its name first, so that a crash leaves no folder that looks like one."""
        hidden = self.folder / f"{TEMPORARY}removed-{folder_name(step)}"
        shutil.rmtree(hidden, ignore_errors=True)
        self.path(step).rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def latest_checkpoint(folder: Path, reporter: Reporter) -> Checkpoint | None:
    """The newest whole checkpoint below `folder`, or None; says which broken ones it passed over."""
    paths = [(step, path) for path in _entries(folder) if (step := step_of_folder(path)) is not None]
    for _, path in sorted(paths, reverse=True):
        try:
            return read_checkpoint(path)
        except FormatError as error:
            reporter.emit(Notice("warning", f"checkpoint {path.name} is broken and not used: {error}"))
    return None


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []

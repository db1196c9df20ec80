"""`entrenar inspect`: what a file or folder is, found by looking into it and not by its name alone.

Only headers, manifests and a sample of rows are read. A thing of no known kind is an error that lists the kinds.
"""

from __future__ import annotations

from pathlib import Path

from entrenar_core.errors import FormatError
from entrenar_core.gguf.foreign import MAGIC
from entrenar_core.stages.inspect_gguf import AdapterFacts, HeadFacts, ModelFacts, OtherGGUF, inspect_gguf
from entrenar_core.stages.inspect_peft import PeftFacts, inspect_peft, is_peft
from entrenar_core.stages.inspect_run import (
    CheckpointFacts,
    RunFacts,
    inspect_checkpoint,
    inspect_run,
    is_checkpoint,
    is_run,
)

Inspected = ModelFacts | AdapterFacts | HeadFacts | OtherGGUF | CheckpointFacts | RunFacts | PeftFacts

KINDS = (
    "a GGUF file (model, adapter, head)",
    "a checkpoint (runs/x/checkpoints/step-000100)",
    "the folder of a run (runs/x)",
    "the folder of a PEFT adapter",
    "data (parquet, JSON lines, CSV, Arrow; a file, a folder or a glob)",
)


def inspect_path(path: str) -> Inspected:
    """Say what is at `path`.

    Raises:
        FormatError: nothing that can be inspected, or a damaged file.
        DataError: data that cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        return _folder(place)
    if _is_gguf(place):
        return inspect_gguf(path)
    raise unknown(path)


def _folder(place: Path) -> Inspected:
    if is_checkpoint(place):
        return inspect_checkpoint(place)
    if is_run(place):
        return inspect_run(place)
    if is_peft(place):
        return inspect_peft(place)
    raise unknown(str(place))


def _is_gguf(place: Path) -> bool:
    if place.suffix.lower() == ".gguf":
        return True
    try:
        with place.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def unknown(path: str) -> FormatError:
    """The error for what is none of `KINDS`."""
    return FormatError("this is nothing that can be inspected", where=path, hint="known are: " + "; ".join(KINDS))

"""`entrenar inspect`: what a file or folder is, found by looking into it and not by its name alone.

Only headers, manifests and a sample of rows are read. A thing of no known kind is an error that lists the kinds.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from entrenar_core.errors import FormatError
from entrenar_core.gguf.foreign import MAGIC
from entrenar_core.stages.data_facts import DataFacts
from entrenar_core.stages.gguf_facts import AdapterFacts, HeadFacts, ModelFacts, OtherGGUF
from entrenar_core.stages.inspect_gguf import inspect_gguf
from entrenar_core.stages.inspect_peft import PeftFacts, inspect_peft, is_peft
from entrenar_core.stages.inspect_run import (
    CheckpointFacts,
    RunFacts,
    inspect_checkpoint,
    inspect_run,
    is_checkpoint,
    is_run,
)

Inspected = ModelFacts | AdapterFacts | HeadFacts | OtherGGUF | CheckpointFacts | RunFacts | PeftFacts | DataFacts

KINDS = (
    "a GGUF file (model, adapter, head)",
    "data (parquet, JSON lines, CSV, Arrow; a file, a folder or a glob)",
    "a checkpoint (runs/x/checkpoints/step-000100)",
    "the folder of a run (runs/x)",
    "the folder of a PEFT adapter",
)


def inspect_path(path: str) -> Inspected:
    """Say what is at `path`.

    Raises:
        FormatError: nothing that can be inspected, or a damaged file.
        DataError: data that cannot be read.
    """
    place = Path(path)
    if place.is_dir():
        found = _folder(place)
        if found is not None:
            return found
    elif _is_gguf(place):
        return inspect_gguf(path)
    return _data(path, place)


def _folder(place: Path) -> Inspected | None:
    if is_checkpoint(place):
        return inspect_checkpoint(place)
    if is_run(place):
        return inspect_run(place)
    return inspect_peft(place) if is_peft(place) else None


def _is_gguf(place: Path) -> bool:
    if place.suffix.lower() == ".gguf" and place.exists():
        return True
    try:
        with place.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _data(path: str, place: Path) -> DataFacts:
    from entrenar_core.stages.inspect_data import inspect_data, is_data  # pyarrow is slow to import

    if is_data(path):
        return inspect_data(path)
    if place.exists():
        hint = f"known are: {'; '.join(KINDS)}"
        if place.suffix in (".yaml", ".yml"):
            hint = f"to check a configuration: entrenar validate {path}"
        raise FormatError("this is nothing that can be inspected", where=path, hint=hint)
    raise FormatError("there is no such file or folder", where=path, hint=_neighbour(place))


def _neighbour(place: Path) -> str:
    if not place.parent.is_dir():
        return f"the folder {place.parent} does not exist either"
    near = get_close_matches(place.name, [found.name for found in place.parent.iterdir()], n=1)
    return f"did you mean {place.parent / near[0]}?" if near else "check the path"

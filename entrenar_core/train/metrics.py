"""``metrics.jsonl``: one JSON object a line for each step, each evaluation and the start of quantization, as they come.
One more at its end tells what rounding cost the written model.

When a run is resumed, what was written after the checkpoint is dropped and will be written again, so the file of a
resumed run equals that of an uninterrupted one in all but the `WALL_CLOCK` keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from entrenar_core.errors import OutputError
from entrenar_core.events import Eval, QuantizationStarted, Rounded, Step
from entrenar_core.train.durable import replace_file
from entrenar_core.train.state import TrainState

WALL_CLOCK = ("seconds", "peak_memory_bytes", "peak_device_bytes")
"""Keys whose values differ from run to run."""

_KINDS: dict[type, str] = {
    Step: "step",
    Eval: "eval",
    QuantizationStarted: "quantization_started",
    Rounded: "rounded",
}


class MetricsFile:
    """Appends to one file; each line is handed to the system at once, and is on disk after `sync`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, state: TrainState) -> None:
        """Keep the lines up to `state`, drop those after it and torn ones. A run that begins has no lines.

        Raises:
            OutputError: the file cannot be written.
        """
        kept = [line for line in _lines(self.path) if _is_before(line, state)]
        replace_file(self.path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def append(self, event: Step | Eval | QuantizationStarted | Rounded) -> None:
        """Write one line.

        Raises:
            OutputError: the file cannot be written.
        """
        line = json.dumps({"event": _KINDS[type(event)], **asdict(event)})
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        except OSError as error:
            raise OutputError(f"cannot be written: {error.strerror}", where=str(self.path)) from error

    def sync(self) -> None:
        """Have everything so far on disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects in the file; what is no JSON object (a line that a crash has torn) is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict):
            yield content


def _is_before(line: dict[str, Any], state: TrainState) -> bool:
    begun = state.step or -1  # a run that begins has no lines, not even of step 0
    limits = {"step": state.step, "eval": state.evaluated_step, "quantization_started": begun}
    last = limits.get(line.get("event", ""), -1)
    step = line.get("step")
    return isinstance(step, int) and step <= last

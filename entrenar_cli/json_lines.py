"""The reporter for scripts: every event and every error is one JSON object on one line.

`event` is the kind (``run_started``, ``step``, ``eval``, ``quantization_started``, ``saved``, ``progress``,
``compiling``, ``notice``, ``generated``, ``predicted``, ``quantizing``, ``quantized``, ``merging``, ``merged``,
``finished``, ``error``), the other keys are its fields. Numbers that JSON does not know (NaN, infinity) become null.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TextIO

from entrenar_core.events import Event

JsonValue = str | int | float | bool | None | dict[str, "JsonValue"]


class JsonReporter:
    """Writes each event to `out` at once."""

    def __init__(self, out: TextIO) -> None:
        self.out = out

    def emit(self, event: Event) -> None:
        kind = re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()
        write_line(self.out, {"event": kind, **{f.name: _plain(getattr(event, f.name)) for f in fields(event)}})

    def close(self) -> None:
        """Nothing is left open."""


def write_line(out: TextIO, content: Mapping[str, object]) -> None:
    """One JSON object on one line, flushed."""
    out.write(json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n")
    out.flush()


def _plain(value: object) -> JsonValue:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"an event field of type {type(value).__name__} has no JSON form")

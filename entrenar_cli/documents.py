"""One JSON object on stdout: what `--json` gives for a command whose answer is a thing and not a run of events."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import TextIO

from entrenar_cli.visible import escaped_json


def write_document(out: TextIO, content: object) -> None:
    """A dataclass or mapping as one JSON object; its keys are the field names. NaN and infinity become null."""
    text = json.dumps(plain(content), ensure_ascii=False, allow_nan=False, indent=2 if out.isatty() else None)
    out.write(escaped_json(text) + "\n")
    out.flush()


def plain(value: object) -> object:
    """`value` in JSON's types."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | frozenset | set):
        return [plain(one) for one in value]
    return _scalar(value)


def _scalar(value: object) -> str | int | float | None:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Path | StrEnum):
        return str(value)
    if value is None or isinstance(value, str | int):
        return value
    raise TypeError(f"a value of type {type(value).__name__} has no JSON form")

"""What `entrenar eval` found out: one result a model, each with the facts of its model, and the form they are kept in.

A result belongs to the task that was measured. Its `figures` are the numbers that models are compared by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol

from entrenar_core.backend.base import Backend
from entrenar_core.stages.evaluated_model import ModelFacts
from entrenar_core.stages.evaluation_settings import EvaluationSettings


class TaskResult(Protocol):
    """What one model was measured to be."""

    @property
    def figures(self) -> Mapping[str, float | None]:
        """Numbers by name, the most important first; None for one that the data do not define."""
        ...

    def as_json(self) -> Mapping[str, object]:
        """Everything that was measured, in JSON's types."""
        ...


Measure = Callable[[Backend], TaskResult]
"""A task with everything that it needs but a place to compute: it loads its model there and measures it."""


@dataclass(frozen=True)
class Speed:
    """Tokens a second: reading `read_tokens` at once, and generating one at a time behind `prompt_tokens`."""

    reading: float
    generating: float
    read_tokens: int
    prompt_tokens: int
    generated_tokens: int


@dataclass(frozen=True)
class Evaluated:
    """One model and its result. `seconds`: what measuring took."""

    model: ModelFacts
    result: TaskResult
    seconds: float
    speed: Speed | None = None


@dataclass(frozen=True)
class EvaluationReport:
    """The results of all models on the same data, the first of them being what the others are compared with.

    reason: why this task. notices: what was skipped or is worth knowing.
    """

    task: str
    reason: str
    data: str
    settings: EvaluationSettings
    models: tuple[Evaluated, ...]
    notices: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """The report in JSON's types; NaN and infinity become None."""
        content: dict[str, Any] = _plain(self)
        return content


def _plain(value: Any) -> Any:
    if hasattr(value, "as_json"):
        return _plain(value.as_json())
    if is_dataclass(value) and not isinstance(value, type):
        return {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
    return _plain_value(value)


def _plain_value(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value

"""What data are for: a task, and the columns that play its roles."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from entrenar_core.config.roles import TASK_ROLES, Roles


class Task(StrEnum):
    """What a model learns from a data set; the values are those of `data.task`."""

    TEXT = "text"
    PROMPT_COMPLETION = "prompt_completion"
    INSTRUCTION = "instruction"
    CHAT = "chat"
    CLASSIFICATION = "classification"
    REGRESSION = "regression"

    @property
    def roles(self) -> Roles:
        """Names of the columns that the task needs, and of those that it can do without."""
        return TASK_ROLES[self.value]


_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_NO_NAMES = frozenset({"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
"""Words that YAML, or some reader of it, takes for something else than text."""

TARGET_ROLES: Mapping[Task, str] = {Task.CLASSIFICATION: "label", Task.REGRESSION: "target"}
"""The role of what a head learns to say of a text."""


@dataclass(frozen=True)
class TaskRequest:
    """What the YAML says: a task or None, columns by role, and whether the rest may be inferred."""

    task: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    auto_infer_types: bool = True


@dataclass(frozen=True)
class TaskColumns:
    """A task and its columns by role.

    Attributes:
        inferred: the task or a column was found, not named.
        notes: what a person should know of columns that are not read.
    """

    task: Task
    columns: Mapping[str, str]
    inferred: bool = True
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that are read, in the order of the roles."""
        return tuple(self.columns.values())

    def __str__(self) -> str:
        return f"{self.task}: " + " + ".join(f"{role} {name!r}" for role, name in self.columns.items())


def yaml_name(name: str) -> str:
    """A column name as YAML has it, in quotes where it would be read as something else."""
    is_plain = _PLAIN_NAME.fullmatch(name) is not None and name.lower() not in _NO_NAMES
    return name if is_plain else json.dumps(name, ensure_ascii=False)

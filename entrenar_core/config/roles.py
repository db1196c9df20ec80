"""The tasks that data can stand for, and the roles of the columns of each: what `data.task` and `data.columns` name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

TaskName = Literal["text", "prompt_completion", "instruction", "chat", "classification", "regression"]
RoleName = Literal[
    "text", "prompt", "completion", "instruction", "input", "output", "messages", "tools", "label", "target"
]


class Roles(NamedTuple):
    """Names of the columns that a task needs, and of those that it can do without."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*self.required, *self.optional)


TASK_ROLES: Mapping[str, Roles] = {
    "text": Roles(("text",)),
    "prompt_completion": Roles(("prompt", "completion")),
    "instruction": Roles(("instruction", "output"), ("input",)),
    "chat": Roles(("messages",), ("tools",)),
    "classification": Roles(("text", "label")),
    "regression": Roles(("text", "target")),
}
ROLE_NAMES: tuple[str, ...] = get_args(RoleName)

LANGUAGE_TASKS = ("text", "prompt_completion", "instruction", "chat")
"""Tasks that train the language model itself; each of the others trains a head of its own."""


SHORT_ROLES = ("text", "prompt", "completion")
"""Roles that have a key of their own in the section: ``data.text`` says the same as ``data.columns.text``."""


def tasks_with(roles: Iterable[str]) -> list[str]:
    """The tasks that have all of these roles, in the order of the table."""
    wanted = set(roles)
    return [task for task, known in TASK_ROLES.items() if wanted <= set(known.all)]


def listed(words: Sequence[str]) -> str:
    """Words as a sentence has them: ``a, b and c``."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

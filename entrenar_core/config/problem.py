"""One wrong thing in a configuration, and the error that reports all of them at once.

A `Problem` keeps its place, key and advice apart, so that a terminal and a JSON reader can each show it their way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.errors import ConfigError

ARGUMENTS = ("MODEL", "DATA")
"""Arguments of commands that set a key, by the names that their help has."""


@dataclass(frozen=True)
class Problem:
    """`where` is ``file.yaml:line:column``, ``--set key`` or another ``--option``; `key` is dotted, empty for the file
    as a whole."""

    where: str
    key: str
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return f"{self.where}: {self.text}"

    @property
    def is_of_an_option(self) -> bool:
        """Whether an option or argument of its own set the key: its name says enough."""
        return (self.where.startswith("-") or self.where in ARGUMENTS) and not self.where.startswith("--set")

    @property
    def text(self) -> str:
        """The problem on one line, without its place."""
        says_key = self.key and not self.is_of_an_option and self.where != f"--set {self.key}"
        head = f"{self.key}: {self.message}" if says_key else self.message
        return f"{head}; {self.hint}" if self.hint else head


class ConfigProblems(ConfigError):
    """Everything that is wrong with one configuration, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        if len(self.problems) == 1:
            only = self.problems[0]
            super().__init__(only.text, where=only.where)
        else:
            lines = [f"{len(self.problems)} problems in the configuration", *map(str, self.problems)]
            super().__init__("\n  ".join(lines))

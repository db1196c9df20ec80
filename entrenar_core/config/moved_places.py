"""Values of a file under other keys, with the place of each: how the YAML of another tool becomes ours."""

from __future__ import annotations

from typing import Any

from entrenar_core.config.base import KeyPath, dotted
from entrenar_core.config.problem import Problem
from entrenar_core.config.yaml_places import Order, Source

Placed = tuple[Order, Problem]


class Moving:
    """From one source into a new one.

    Attributes:
        old: what was read.
        new: what is made of it.
        names: dotted key in the new source -> the key that the file has for it.
        problems: mistakes that were found on the way.
    """

    def __init__(self, old: Source) -> None:
        self.old = old
        self.new = Source(old.name, {}, old.number, problems=old.problems, stopping=old.stopping)
        self.names: dict[str, str] = {}
        self.problems: list[Placed] = []

    def value(self, path: KeyPath) -> Any:
        """What stands in the file; None for what is not there."""
        found: Any = self.old.data
        for part in path:
            try:
                found = found[part]
            except (KeyError, IndexError, TypeError):
                return None
        return found

    def put(self, new: KeyPath, value: object, old: KeyPath) -> None:
        """Set a value in the new source; it, and what is in it, has the places of `old`."""
        inner: Any = self.new.data
        for part in new[:-1]:
            inner = inner[part]
        inner[new[-1]] = value
        self.names[dotted(new)] = dotted(old)
        for theirs, ours in ((self.old.keys, self.new.keys), (self.old.values, self.new.values)):
            for path in [known for known in theirs if known[: len(old)] == old]:
                ours[(*new, *path[len(old) :])] = theirs[path]

    def move(self, new: KeyPath, old: KeyPath) -> None:
        """Put a value under another key, if it is there."""
        value = self.value(old)
        if value is not None:
            self.put(new, value, old)

    def refuse(self, old: KeyPath, message: str, hint: str | None, *, of_value: bool = False) -> None:
        """Note a mistake at a key of the file, or at its value."""
        place = self.old.place(old, of_value=of_value)
        self.problems.append((place.order, Problem(place.where, dotted(old), message, hint)))


def as_written(problem: Problem, names: dict[str, str]) -> Problem:
    """A problem under the key that the file has; see `Moving.names`."""
    for length in range(len(problem.key), 0, -1):
        key, rest = problem.key[:length], problem.key[length:]
        if key in names and rest[:1] in ("", ".", "["):
            hint = problem.hint and problem.hint.replace(f"set {_last(key)}: ", f"set {_last(names[key])}: ")
            return Problem(problem.where, names[key] + rest, problem.message, hint)
    return problem


def _last(key: str) -> str:
    return key.rpartition(".")[2]

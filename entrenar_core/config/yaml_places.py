"""Plain values of a configuration with the file, line and column of every key, and mistakes that have a place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

from entrenar_core.config.base import KeyPath
from entrenar_core.config.problem import ConfigProblems, Problem

Order = tuple[int, int, int]
"""Number of the file in the order of reading, line, column: what problems are sorted by."""


@dataclass(frozen=True)
class Place:
    """Where a key or a value stands, and the text of the value if it is a scalar (empty for an empty value)."""

    where: str
    order: Order
    text: str | None = None


@dataclass
class Source:
    """Plain values with their places.

    `number` is the position of the file among those of a configuration; 0 is the one that was named. `problems` are
    mistakes that leave the rest to be checked, such as duplicate keys; after those in `stopping`, such as variables
    that are not set, too little is known to check anything.
    """

    name: str
    data: dict[str, Any]
    number: int = 0
    keys: dict[KeyPath, Place] = field(default_factory=dict)
    values: dict[KeyPath, Place] = field(default_factory=dict)
    problems: list[tuple[Order, Problem]] = field(default_factory=list)
    stopping: list[tuple[Order, Problem]] = field(default_factory=list)

    def place(self, path: KeyPath, *, of_value: bool = False) -> Place:
        """The place of a key or its value; of the nearest section around it when it is not in the file."""
        for end in range(len(path), 0, -1):
            found = (self.values if of_value and end == len(path) else self.keys).get(path[:end])
            found = found or self.values.get(path[:end])
            if found is not None:
                return found
        return Place(f"{self.name}:1:1", (0, 1, 1))

    def forget(self, path: KeyPath) -> None:
        """Drop the places of a key and of everything below it."""
        for places in (self.keys, self.values):
            for old in [known for known in places if known[: len(path)] == path]:
                del places[old]


def fail(place: Place, message: str, hint: str | None = None) -> NoReturn:
    """Raise the one problem that stands at `place`."""
    raise ConfigProblems([Problem(place.where, "", message, hint)])

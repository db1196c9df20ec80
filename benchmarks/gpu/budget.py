"""How the seconds of a run are divided: each part may use its share of what is left, and leaves the rest to others."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


class Budget:
    """Seconds from now on, and what the parts of a run may take of them.

    Args:
        seconds: for everything.
        shares: of each part, in any unit.
        clock: seconds that only grow.
    """

    def __init__(
        self, seconds: float, shares: Mapping[str, float], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds
        self._shares = dict(shares)

    @property
    def left(self) -> float:
        """Seconds until the end, at least 0."""
        return max(0.0, self._end - self._clock())

    def begin(self, part: str) -> float:
        """The seconds that a part may take if it begins now: its share among the parts that have not begun."""
        waiting = sum(self._shares.values())
        return self.left * self._shares.pop(part) / waiting


class Deadline:
    """A moment, some seconds from now."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def left(self) -> float:
        """Seconds until then; negative when it is past."""
        return self._end - self._clock()

    @property
    def is_past(self) -> bool:
        return self.left <= 0

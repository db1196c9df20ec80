"""How long work on a device takes: between two events on its stream, calls in a row, the median of several rows."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, Protocol

Work = Callable[[], Any]

ROUNDS = 5
_LEAST_SECONDS = 0.02
_MOST_CALLS = 200


class Timer(Protocol):
    """Measures work that a device does."""

    def seconds(self, work: Work, calls: int) -> float:
        """Of this many calls in a row, from the first one's start on the device to the last one's end."""
        ...


class EventTimer:
    """CUDA events on the current stream."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy

    def seconds(self, work: Work, calls: int) -> float:
        start, stop = self._cupy.cuda.Event(), self._cupy.cuda.Event()
        start.record()
        for _ in range(calls):
            work()
        stop.record()
        stop.synchronize()
        return float(self._cupy.cuda.get_elapsed_time(start, stop)) / 1e3


class ClockTimer:
    """The clock of the host, where work is done when a call returns."""

    def seconds(self, work: Work, calls: int) -> float:
        started = time.perf_counter()
        for _ in range(calls):
            work()
        return time.perf_counter() - started


def seconds_of(timer: Timer, work: Work, rounds: int = ROUNDS) -> float:
    """Of one call: the median of several rounds of as many calls as fill 20 ms, after two that warm up."""
    timer.seconds(work, 1)
    calls = calls_for(timer.seconds(work, 1))
    return statistics.median(timer.seconds(work, calls) / calls for _ in range(rounds))


def calls_for(seconds: float) -> int:
    """How many calls of this length a round is made of."""
    return max(1, min(_MOST_CALLS, round(_LEAST_SECONDS / max(seconds, 1e-9))))

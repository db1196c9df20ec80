"""Signals that end a command: they are errors in its middle, so that what it has begun to write is removed."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_ENDING = ("SIGTERM", "SIGHUP")
"""Names, since not every system has both."""


class Terminated(KeyboardInterrupt):
    """Another signal than that of Ctrl-C asks the command to end; whoever lets that one pass lets this one pass."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ending_signals_raised() -> Iterator[None]:
    """Raise `Terminated` where the process would end at once. Signals that are ignored (``nohup``) or handled stay
    so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.Signals[name] for name in _ENDING if name in signal.Signals.__members__]
    ending = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, _raise)
    try:
        yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Terminated(number)

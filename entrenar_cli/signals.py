"""Signals that end a command: they are errors in its middle, so that what it has begun to write is removed."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_ENDING = ("SIGTERM", "SIGHUP")
"""Names, since not every system has both."""

_SECONDS_TO_REPEAT = 0.05


class Terminated(KeyboardInterrupt):
    """Another signal than that of Ctrl-C asks the command to end; whoever lets that one pass lets this one pass."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ending_signals_raised() -> Iterator[None]:
    """Raise `Terminated` where the process would end at once. Signals that are ignored (``nohup``) or handled stay so.

    What is raised while C code calls Python, as LLVM does when it compiles, is dropped there; then the signal, that of
    Ctrl-C too, is sent again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [signal.Signals[name] for name in _ENDING if name in signal.Signals.__members__]
    ending = [number for number in numbers if signal.getsignal(number) is signal.SIG_DFL]
    for number in ending:
        signal.signal(number, _raise)
    try:
        with _dropped_ones_repeated():
            yield
    finally:
        for number in ending:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def _dropped_ones_repeated() -> Iterator[None]:
    before, timers = sys.unraisablehook, list[threading.Timer]()
    sys.unraisablehook = partial(_repeat, before, timers)
    try:
        yield
    finally:
        sys.unraisablehook = before
        for timer in timers:
            timer.cancel()


def _repeat(
    otherwise: Callable[[UnraisableHookArgs], object], timers: list[threading.Timer], dropped: UnraisableHookArgs
) -> None:
    if not issubclass(dropped.exc_type, KeyboardInterrupt):
        otherwise(dropped)
        return
    number = dropped.exc_value.number if isinstance(dropped.exc_value, Terminated) else signal.SIGINT
    timer = threading.Timer(_SECONDS_TO_REPEAT, signal.pthread_kill, (threading.main_thread().ident, number))
    timer.daemon = True
    timer.start()
    timers.append(timer)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    del frame
    raise Terminated(number)

"""Ctrl-C and SIGTERM: the first asks the loop to stop at the next safe place, the second ends the process at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType
from typing import Any

from entrenar_core.errors import EntrenarError


class Interrupted(EntrenarError):
    """A person or the system asked the run to stop, and it did, with a checkpoint.

    The exit code is the shell's: 128 + the number of the signal, 130 for Ctrl-C.
    """

    exit_code = 130

    def __init__(self, message: str, *, signal_number: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.signal_number = signal_number
        self.exit_code = 128 + signal_number


class StopSignal:
    """A request to stop, made by a signal while it is entered, or by `request`.

    ``with StopSignal() as stop: Trainer(..., stop=stop).run()``. After the first signal the handlers that were there
    before are back, so a second Ctrl-C raises KeyboardInterrupt wherever the program is. A signal that was ignored
    (``nohup``) stays ignored. Only the main thread can catch signals; in another one, nothing is installed.
    """

    def __init__(self, signals: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.requested: int | None = None
        self._signals = signals
        self._previous: dict[int, Any] = {}

    def request(self, number: int = signal.SIGINT) -> None:
        """Ask for a stop, as the signal `number` would."""
        self.requested = number

    def __enter__(self) -> StopSignal:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._restore()
        self.request(number)

    def _restore(self) -> None:
        while self._previous:
            signal.signal(*self._previous.popitem())

"""Signals that would end the process at once are raised where it is, and nothing else is changed."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from entrenar_cli.signals import Terminated, ending_signals_raised


@pytest.fixture(autouse=True)
def handlers_are_put_back() -> Iterator[None]:
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_raised_like_ctrl_c(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt) as caught, ending_signals_raised():
        os.kill(os.getpid(), number)
    assert isinstance(caught.value, Terminated)
    assert caught.value.number == number
    assert signal.getsignal(number) is signal.SIG_DFL


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_c_code_drops_is_raised_after_it(number: signal.Signals) -> None:
    called: list[int] = []

    def interrupted() -> None:
        called.append(number)
        os.kill(os.getpid(), number)

    hook = sys.unraisablehook
    with pytest.raises(KeyboardInterrupt) as caught, ending_signals_raised():
        ctypes.CFUNCTYPE(None)(interrupted)()
        called.append(0)
        time.sleep(10)
    assert called == [number, 0], "the callback could not raise it"
    assert getattr(caught.value, "number", signal.SIGINT) == number
    assert sys.unraisablehook is hook


def test_what_else_is_dropped_is_said_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda dropped: heard.append(dropped.exc_type))
    with ending_signals_raised():
        ctypes.CFUNCTYPE(None)(lambda: 1 // 0)()
    assert heard == [ZeroDivisionError]


def test_ignored_and_handled_signals_stay_so() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, lambda number, frame: heard.append(number))
    with ending_signals_raised():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGHUP)
    assert heard == [signal.SIGHUP]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_other_threads_leave_signals_alone() -> None:
    seen: list[object] = []

    def enter() -> None:
        with ending_signals_raised():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [signal.SIG_DFL]

"""Signals that would end the process at once are raised where it is, and nothing else is changed."""

from __future__ import annotations

import os
import signal
import threading
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

"""Cases for `benchmarks.gpu.cases` to run in a process: some do well, some fail, some bring the process down."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

from benchmarks.gpu.cases import Cases, serve_cases
from benchmarks.gpu.child import Message


def well() -> Iterator[Message]:
    yield {"value": 1}
    yield {"value": 2}


def fails() -> Iterator[Message]:
    yield {"value": 3}
    raise ValueError("wrong")


def ends() -> Iterator[Message]:
    os._exit(9)


def hangs() -> Iterator[Message]:
    time.sleep(60)
    yield {}


def open_device() -> tuple[Cases, Callable[[], None]]:
    """A device that is lost once the case `spoils` has run."""
    is_lost = False

    def spoils() -> Iterator[Message]:
        nonlocal is_lost
        is_lost = True
        raise ValueError("spoilt")

    def check() -> None:
        if is_lost:
            raise RuntimeError("the device is lost")

    print("libraries print what they like")
    cases = {"well": well, "fails": fails, "ends": ends, "hangs": hangs, "spoils": spoils, "also well": well}
    return cases, check


if __name__ == "__main__":
    serve_cases(open_device)

"""Cases that run one after another in a process of their own, so that one which brings a device down costs only itself.

The process says when a case begins, what it found and when it ends; what it does not reach in its time stays. If it
dies, the case it was at has failed, and another process goes on with the next.
"""

from __future__ import annotations

import argparse
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.gpu.budget import Deadline
from benchmarks.gpu.child import Child, ChildEnded, ChildTimedOut, Message, message_stream

GRACE = 20.0
"""Seconds that a case may take beyond the end before its process is killed."""

OPENING = "opening the device"
"""The name under which it fails if no case has begun."""

_OPENING_SECONDS = 120.0
_MOST_PROCESSES = 12

Cases = Mapping[str, Callable[[], Iterable[Message]]]
"""What a case finds, by its name, in the order in which cases are worth their time."""


@dataclass
class Outcome:
    """What the cases of one part came to.

    Attributes:
        found: messages of all cases.
        failed: names of cases that ended with an error, with it.
        not_reached: names of cases that there was no time for.
        seconds: by case.
    """

    found: list[Message] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    not_reached: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def message(self) -> Message:
        """As JSON has it."""
        return {
            "found": self.found,
            "failed": self.failed,
            "not_reached": self.not_reached,
            "seconds": self.seconds,
        }


def run_cases(module: str, names: Sequence[str], seconds: float, log: Path) -> Outcome:
    """Run cases of a module that calls `serve_cases`, in as many processes as it takes."""
    outcome, deadline = Outcome(), Deadline(seconds)
    waiting = list(names)
    for _ in range(_MOST_PROCESSES):
        if not waiting or deadline.is_past:
            break
        done = _run_in_one_process(module, waiting, deadline, log, outcome)
        if done == 0:
            break
        waiting = waiting[done:]
    outcome.not_reached.extend(waiting)
    return outcome


def _run_in_one_process(module: str, names: list[str], deadline: Deadline, log: Path, outcome: Outcome) -> int:
    """How many of the names, from the first on, are done with: ended, or failed with the process."""
    child = Child(module, ["--seconds", f"{max(0.0, deadline.left):.1f}", "--cases", *names], log)
    begun = ended = 0
    try:
        while ended < len(names):
            message = child.receive(deadline.left + GRACE if begun else max(_OPENING_SECONDS, deadline.left))
            if "out_of_time" in message:
                break
            begun += "begins" in message
            ended += "ends" in message
            _note(outcome, names[begun - 1], message)
    except (ChildEnded, ChildTimedOut) as error:
        child.kill()
        outcome.failed.setdefault(names[begun - 1] if begun else OPENING, str(error))
        return begun
    finally:
        child.stop()
    return ended


def _note(outcome: Outcome, name: str, message: Message) -> None:
    if "ends" in message:
        outcome.seconds[name] = message["seconds"]
    elif "error" in message:
        outcome.failed[name] = message["error"]
    elif "begins" not in message:
        outcome.found.append({"case": name, **message})


def serve_cases(open_device: Callable[[], tuple[Cases, Callable[[], None]]]) -> None:
    """The process's side: run the cases that its command line names, until its time is over.

    Args:
        open_device: called once; gives the cases, and what raises if the device cannot be used any more, which is
            called after a case that failed.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--cases", nargs="+", required=True)
    options = parser.parse_args()
    send, deadline = message_stream(), Deadline(options.seconds)
    cases, check_device = open_device()
    for name in options.cases:
        if deadline.is_past:
            send({"out_of_time": name})
            return
        send({"begins": name})
        started = time.monotonic()
        try:
            for message in cases[name]():
                send(message)
        except Exception as error:
            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {error}"})
            check_device()
        send({"ends": name, "seconds": time.monotonic() - started})

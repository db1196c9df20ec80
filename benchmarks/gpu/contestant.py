"""The side of a contestant in a race of training steps: a process that builds a model when it is told to, and trains.

It answers each message with one: to a task with what building took, to a turn with its seconds, loss and peak memory,
or with an error, which says whether memory ran out.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

from benchmarks.gpu.child import Message, message_stream
from benchmarks.gpu.task import Task


class Trainer(Protocol):
    """A model that is ready to train."""

    def step(self) -> Any:
        """One optimizer step on the batch; whatever `loss_of` reads the loss from."""
        ...

    def loss_of(self, step: Any) -> float:
        """The loss before a step."""
        ...

    def synchronize(self) -> None:
        """Wait until the device has done what it was told."""
        ...

    def attention(self) -> str:
        """What attends, in words."""
        ...

    def peak_bytes(self) -> int:
        """The most memory that the process has held on the device since it was built."""
        ...

    def give_back(self) -> None:
        """Let go of memory that no array is in, for the others."""
        ...


def take_turn(trainer: Trainer, warm: int, steps: int) -> Message:
    """Steps in a row, after at least one that does not count: it may wait for memory again."""
    taken = [trainer.step() for _ in range(warm)]
    trainer.synchronize()
    started = time.perf_counter()
    for _ in range(steps):
        taken.append(trainer.step())
    trainer.synchronize()
    seconds = (time.perf_counter() - started) / steps
    first, last = trainer.loss_of(taken[0]), trainer.loss_of(taken[-1])
    found = {"seconds": seconds, "first_loss": first, "last_loss": last, "attention": trainer.attention()}
    found["peak_bytes"] = trainer.peak_bytes()
    trainer.give_back()
    return found


def serve_contestant(build: Callable[[Task], Trainer]) -> None:
    """Answer messages until there are no more."""
    send = message_stream()
    send({"ready": True})
    trainer: Trainer | None = None
    for line in sys.stdin:
        message = json.loads(line)
        started = time.perf_counter()
        try:
            if "task" in message:
                trainer = build(Task.of(message["task"]))
                trainer.synchronize()
                send({"built": time.perf_counter() - started})
            elif trainer is not None:
                send(take_turn(trainer, message["warm"], message["steps"]))
        except Exception as error:
            traceback.print_exc()
            send({"error": f"{type(error).__name__}: {error}"[:500], "out_of_memory": is_out_of_memory(error)})


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left: ours, CuPy's or torch's."""
    name, said = type(error).__name__, str(error).lower()
    return name in ("MemoryError", "DeviceMemoryError") or "OutOfMemory" in name or "out of memory" in said

"""Shares the pieces of many tensors out over threads, pass after pass.

A pass of a tensor can begin when the one before it is complete, so near its end threads would wait for one another:
they take pieces of the next tensors instead. What is found does not depend on who worked when: results are put in the
order of the pieces, or joined exactly.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from entrenar_core.merge.passes import Combine, Inputs, Pass, Passes, Piece
from entrenar_core.quant.workers import run_workers

Read = Callable[[Piece, int], Inputs]
"""Gives the inputs of a piece, in memory of the worker of this number."""

Write = Callable[[Inputs, Combine, int], None]
"""Combines the inputs of a piece, in memory of the worker of this number, and puts the result where it belongs."""


@dataclass(frozen=True)
class Task:
    """The merge of one tensor: how it begins, its pieces, and how their values come and go."""

    begin: Callable[[], Passes]
    pieces: Sequence[Piece]
    read: Read
    write: Write


def run_tasks(tasks: Sequence[Task], n_workers: int, watch: Callable[[int, int], None] | None = None) -> None:
    """Do all tasks.

    Args:
        tasks: they are begun in this order.
        n_workers: threads.
        watch: called on the caller's thread with the number of pieces that were written and of tasks that are complete,
            after changes, a few times a second and in the end.

    Raises:
        whatever a task raises: that of the first task, and of its lowest piece, where several fail.
    """
    schedule = _Schedule(tasks, n_workers)
    seen: tuple[int, int] | None = None

    def look() -> None:
        nonlocal seen
        now = (schedule.pieces_written, schedule.tasks_done)
        if watch is not None and now != seen:
            watch(*now)
        seen = now

    run_workers(schedule.work, n_workers, schedule.stop, look)
    if schedule.errors:
        raise schedule.errors[min(schedule.errors)]
    look()


@dataclass
class _Running:
    """A task in work. `step` is the pass at hand, or the function that makes the values in the end."""

    number: int
    task: Task
    passes: Passes
    step: Pass | Combine
    taken: int = 0
    done: int = 0
    found: dict[int, Any] = field(default_factory=dict)

    def take(self) -> Piece | None:
        """A piece of the current step that nobody has taken."""
        if self.taken == len(self.task.pieces):
            return None
        self.taken += 1
        return self.task.pieces[self.taken - 1]

    def keep(self, piece: Piece, result: Any) -> bool:
        """Keep what the step gave for a piece; whether it was the last one."""
        self.done += 1
        fold = self.step.fold if isinstance(self.step, Pass) else None
        if fold is None:
            self.found[piece.number] = result
        else:
            self.found[0] = result if self.done == 1 else fold(self.found[0], result)
        return self.done == len(self.task.pieces)

    def result(self) -> Any:
        """What the pass gave as a whole."""
        assert isinstance(self.step, Pass)
        return self.found[0] if self.step.fold is not None else [self.found[number] for number in sorted(self.found)]

    def begin(self, step: Pass | Combine) -> None:
        """Give all pieces out again, for the next step."""
        self.step = step
        self.taken = self.done = 0
        self.found = {}


class _Schedule:
    """Which piece is next. All but the work itself happens under one lock."""

    def __init__(self, tasks: Sequence[Task], n_workers: int) -> None:
        self.errors: dict[tuple[int, int], Exception] = {}
        self.pieces_written = self.tasks_done = 0
        self._waiting: Iterator[tuple[int, Task]] = iter(enumerate(tasks))
        self._running: deque[_Running] = deque()
        self._most = n_workers + 1
        self._stopped = False
        self._changed = threading.Condition(threading.RLock())

    def work(self, worker: int) -> None:
        """Take pieces until there are none."""
        while (taken := self._next()) is not None:
            running, piece = taken
            try:
                self._finish(running, piece, self._do(running, piece, worker))
            except Exception as error:
                self._fail(running.number, piece.number, error)

    def stop(self) -> None:
        """Let workers end after the piece at hand."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _next(self) -> tuple[_Running, Piece] | None:
        with self._changed:
            while not self._stopped:
                for running in self._running:
                    piece = running.take()
                    if piece is not None:
                        return running, piece
                if self._begin():
                    continue
                if not self._running:
                    return None
                self._changed.wait()
        return None

    def _begin(self) -> bool:
        """Begin another task, unless enough of them are in work."""
        entry = next(self._waiting, None) if len(self._running) < self._most else None
        if entry is None:
            return False
        number, task = entry
        try:
            passes = task.begin()
            self._running.append(_Running(number, task, passes, _step_after(passes, None)))
        except Exception as error:
            self._fail(number, 0, error)
        return True

    @staticmethod
    def _do(running: _Running, piece: Piece, worker: int) -> Any:
        inputs = running.task.read(piece, worker)
        if isinstance(running.step, Pass):
            return running.step.look(inputs)
        running.task.write(inputs, running.step, worker)
        return None

    def _finish(self, running: _Running, piece: Piece, result: Any) -> None:
        with self._changed:
            is_complete = running.keep(piece, result)
            is_written = not isinstance(running.step, Pass)
            self.pieces_written += is_written
            if not is_complete:
                return
            if is_written:
                self._running.remove(running)
                self.tasks_done += 1
                self._changed.notify_all()
                return
        step = _step_after(running.passes, running.result())  # nobody else touches it: it has no piece to take
        with self._changed:
            running.begin(step)
            self._changed.notify_all()

    def _fail(self, task: int, piece: int, error: Exception) -> None:
        with self._changed:
            self.errors[task, piece] = error
            self._stopped = True
            self._changed.notify_all()


def _step_after(passes: Passes, result: Any) -> Pass | Combine:
    """What a method wants next, once it has the result of its last pass."""
    try:
        return passes.send(result)
    except StopIteration as end:
        combine: Combine = end.value
        return combine

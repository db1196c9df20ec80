"""The one thread budget of a process: persistent threads that run kernels side by side.

Kernels and BLAS calls let go of the GIL, so ordinary Python threads suffice; the caller's thread takes the first part
of the work. Each worker sleeps on a lock of its own, which is the cheapest way to wake it (about 10 µs a dispatch).
How work is cut depends only on its size and on the number of threads, so the same call gives the same bytes.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

Job = tuple[Callable[..., None], tuple[Any, ...]]


def available_cores() -> int:
    """The cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Threads:
    """`count` threads, the caller's included; used by one caller at a time.

    Args:
        count: how many; None takes every core that the process may run on.

    Raises:
        ValueError: count < 1.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = available_cores() if count is None else count
        if self.count < 1:
            raise ValueError(f"a thread count of {count}: at least 1 is needed")
        self._workers = [_Worker() for _ in range(self.count - 1)]
        self._in_use = threading.Lock()
        self._finalizer = weakref.finalize(self, _stop, self._workers)

    def run(self, function: Callable[..., None], n_rows: int, *args: Any, grain: int = 1) -> None:
        """Call ``function(*args, start, stop)`` on contiguous ranges that cover 0 ... n_rows, side by side.

        A range has at least `grain` rows, so work that is too small for two threads runs on the caller alone.

        Raises:
            RuntimeError: called from inside another run, or after close.
            whatever `function` raises; with several failures, that of the lowest range.
        """
        parts = min(self.count, n_rows // max(grain, 1))
        if parts <= 1:
            self._check_free()
            if n_rows > 0:
                function(*args, 0, n_rows)
            return
        bounds = [part * n_rows // parts for part in range(parts + 1)]
        self._dispatch([(function, (*args, bounds[part], bounds[part + 1])) for part in range(parts)])

    def run_tasks(self, function: Callable[..., None], n_tasks: int, *args: Any) -> None:
        """Call ``function(*args, task, thread)`` for each task 0 ... n_tasks-1; a free thread takes the next one.

        Which thread (0 ... count-1) gets a task is left to chance: it may only choose scratch memory.

        Raises:
            RuntimeError: see `run`.
            whatever `function` raises; with several failures, that of the lowest task. Tasks that were begun are
                finished first; of later ones some may not be begun.
        """
        threads = min(self.count, n_tasks)
        if threads <= 1:
            self._check_free()
            for task in range(n_tasks):
                function(*args, task, 0)
            return
        tasks = iter(range(n_tasks))
        errors: dict[int, Exception] = {}
        self._dispatch([(_drain, (function, args, tasks, thread, errors)) for thread in range(threads)])
        if errors:
            raise errors[min(errors)]

    def close(self) -> None:
        """End the worker threads. The object cannot be used again, unless it has one thread."""
        self._finalizer()

    def _check_free(self) -> None:
        if self._in_use.locked():
            raise RuntimeError("Threads is already running: kernels must not start further threads")

    def _dispatch(self, jobs: list[Job]) -> None:
        if not self._in_use.acquire(blocking=False):
            raise RuntimeError("Threads is already running: kernels must not start further threads")
        try:
            if not self._finalizer.alive:
                raise RuntimeError("Threads is closed")
            self._run_jobs(jobs)
        finally:
            self._in_use.release()

    def _run_jobs(self, jobs: list[Job]) -> None:
        active = self._workers[: len(jobs) - 1]
        for worker, job in zip(active, jobs[1:], strict=True):
            worker.start(job)
        try:
            function, args = jobs[0]
            function(*args)
        finally:
            errors = [self._finish(index) for index in range(len(active))]
        for error in errors:
            if error is not None:
                raise error

    def _finish(self, index: int) -> BaseException | None:
        worker = self._workers[index]
        try:
            return worker.wait()
        except BaseException:
            # Ctrl-C interrupted the wait: the arrays are the worker's until it is done, and its lock may be in any
            # state, so it is awaited by polling and replaced.
            while worker.job is not None:
                time.sleep(0.001)
            worker.start(None)
            self._workers[index] = _Worker()
            raise


class _Worker:
    """One daemon thread that runs one job at a time."""

    def __init__(self) -> None:
        self.job: Job | None = None
        self._error: BaseException | None = None
        self._go = threading.Lock()
        self._done = threading.Lock()
        self._go.acquire()
        self._done.acquire()
        threading.Thread(target=self._loop, name="entrenar-kernel", daemon=True).start()

    def start(self, job: Job | None) -> None:
        """Begin a job; None ends the thread."""
        self.job = job
        self._go.release()

    def wait(self) -> BaseException | None:
        """Sleep until the job is done; what it raised, if anything."""
        self._done.acquire()
        error, self._error = self._error, None
        return error

    def _loop(self) -> None:
        while True:
            self._go.acquire()
            job = self.job
            if job is None:
                return
            function, args = job
            try:
                function(*args)
            except BaseException as error:
                self._error = error
            # The arrays of a job must not live on in a sleeping thread.
            del job, function, args
            self.job = None
            self._done.release()


def _drain(
    function: Callable[..., None],
    args: tuple[Any, ...],
    tasks: Iterator[int],
    thread: int,
    errors: dict[int, Exception],
) -> None:
    """Do one task after another, up to the first that fails. They are begun in order, so the lowest one that fails is
    always among those that were."""
    for task in tasks:
        try:
            function(*args, task, thread)
        except Exception as error:
            errors[task] = error
            return


def _stop(workers: list[_Worker]) -> None:
    for worker in workers:
        worker.start(None)

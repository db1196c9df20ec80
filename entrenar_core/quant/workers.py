"""Threads that work through numbered pieces in order, while the caller's thread watches.

The caller sleeps between looks, so that Ctrl-C reaches it at once and the cores belong to the workers.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Work = Callable[[int, int], None]
"""Does piece number ... as worker number ...; the latter may only choose scratch memory."""

WATCH_SECONDS = 0.1


def run_pieces(work: Work, n_pieces: int, n_workers: int, watch: Callable[[], None] | None = None) -> None:
    """Do all pieces; a free worker takes the next one.

    Args:
        work: called for each piece, on one of the workers.
        n_pieces: how many there are.
        n_workers: threads.
        watch: called on the caller's thread a few times a second.

    Raises:
        whatever `work` raises, that of the lowest piece where several fail; whatever `watch` raises. Pieces that were
        begun are finished first, later ones are not begun.
    """
    state = _State(itertools.count(), n_pieces)
    run_workers(lambda worker: _take_pieces(work, state, worker), min(n_workers, n_pieces), state.stop, watch)
    if state.errors:
        raise state.errors[min(state.errors)]


def run_workers(
    work: Callable[[int], None], n_workers: int, stop: Callable[[], None], watch: Callable[[], None] | None = None
) -> None:
    """Call ``work(worker)`` on each of `n_workers` threads and wait for them.

    Args:
        work: may not raise; who works keeps errors for the caller.
        n_workers: threads.
        stop: makes all of them return soon; called in the end, whatever happened.
        watch: called on the caller's thread a few times a second; what it raises ends the wait.
    """
    threads = [
        threading.Thread(target=work, args=(worker,), name="entrenar-piece", daemon=True) for worker in range(n_workers)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(WATCH_SECONDS)
                if watch is not None:
                    watch()
    finally:
        stop()
        for thread in threads:
            _outlive(thread)


@dataclass
class _State:
    numbers: Iterator[int]
    n_pieces: int
    stopped: bool = False
    errors: dict[int, BaseException] = field(default_factory=dict)

    def stop(self) -> None:
        self.stopped = True


def _take_pieces(work: Work, state: _State, worker: int) -> None:
    for piece in state.numbers:  # `next` of a count is atomic
        if state.stopped or piece >= state.n_pieces:
            return
        try:
            work(piece, worker)
        except BaseException as error:
            state.errors[piece] = error
            state.stop()
            return


def _outlive(thread: threading.Thread) -> None:
    """Wait for the piece in work, however often Ctrl-C is pressed: files and buffers are the worker's until then."""
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            continue

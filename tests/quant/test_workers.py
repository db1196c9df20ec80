"""Pieces are done by several threads; the error of the lowest one counts, and Ctrl-C stops the work."""

from __future__ import annotations

import threading
import time

import pytest

from entrenar_core.quant.workers import run_pieces


@pytest.mark.parametrize("workers", [1, 3])
def test_every_piece_is_done_once(workers: int) -> None:
    done: list[int] = []
    seen: set[int] = set()

    def work(piece: int, worker: int) -> None:
        seen.add(worker)
        done.append(piece)

    run_pieces(work, 50, workers)
    assert sorted(done) == list(range(50))
    assert seen <= set(range(workers))


def test_workers_are_threads_that_a_debugger_can_tell_and_that_keep_no_process_alive() -> None:
    found: set[tuple[str, bool]] = set()

    def work(piece: int, worker: int) -> None:
        found.add((threading.current_thread().name, threading.current_thread().daemon))

    run_pieces(work, 4, 2)
    assert found == {("entrenar-piece", True)}


def test_nothing_to_do_is_done() -> None:
    run_pieces(lambda piece, worker: pytest.fail("there is no piece"), 0, 2)


def test_the_error_of_the_lowest_piece_is_raised_whoever_comes_first() -> None:
    both = threading.Barrier(2, timeout=10)

    def work(piece: int, worker: int) -> None:
        if piece >= 2:
            return
        both.wait()
        if piece == 0:
            time.sleep(0.05)
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece 0"):
        run_pieces(work, 100, 2)


def test_after_an_error_no_piece_is_begun() -> None:
    begun: list[int] = []

    def work(piece: int, worker: int) -> None:
        begun.append(piece)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        run_pieces(work, 1000, 2)
    assert len(begun) <= 2


def test_after_an_error_other_workers_finish_only_what_they_have_begun() -> None:
    begun: list[int] = []
    both = threading.Barrier(2, timeout=10)

    def work(piece: int, worker: int) -> None:
        begun.append(piece)
        if piece < 2:
            both.wait()
        if piece == 0:
            raise ValueError("no")
        time.sleep(0.05)

    with pytest.raises(ValueError, match="no"):
        run_pieces(work, 1000, 2)
    assert sorted(begun) == [0, 1]


def test_an_interrupt_while_watching_waits_for_the_pieces_in_work() -> None:
    finished: list[int] = []

    def work(piece: int, worker: int) -> None:
        time.sleep(0.15)
        finished.append(piece)

    def watch() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_pieces(work, 1000, 2, watch)
    count = len(finished)
    assert 1 <= count <= 4
    time.sleep(0.3)
    assert len(finished) == count

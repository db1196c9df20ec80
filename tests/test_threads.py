"""Threads: what is covered by a run, in which parts, and what happens when something goes wrong."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from entrenar_core.threads import Threads, available_cores


@pytest.fixture(params=[1, 2, 3, 5])
def threads(request: pytest.FixtureRequest) -> Any:
    made = Threads(request.param)
    yield made
    made.close()


def count_visits(visits: np.ndarray, start: int, stop: int) -> None:
    visits[start:stop] += 1


@pytest.mark.parametrize("n_rows", [0, 1, 2, 3, 7, 64, 1001])
@pytest.mark.parametrize("grain", [0, 1, 4, 10_000])
def test_each_row_is_visited_once(threads: Threads, n_rows: int, grain: int) -> None:
    visits = np.zeros(n_rows, np.int64)
    threads.run(count_visits, n_rows, visits, grain=grain)
    assert (visits == 1).all()


def test_ranges_are_contiguous_balanced_and_at_least_a_grain_long() -> None:
    threads = Threads(4)
    ranges: list[tuple[int, int]] = []
    threads.run(lambda start, stop: ranges.append((start, stop)), 103, grain=30)
    assert sorted(ranges) == [(0, 34), (34, 68), (68, 103)]


def test_the_same_work_is_always_cut_alike() -> None:
    threads = Threads(3)
    cuts = set()
    for _ in range(20):
        ranges: list[tuple[int, int]] = []
        threads.run(lambda start, stop, ranges=ranges: ranges.append((start, stop)), 100)
        cuts.add(tuple(sorted(ranges)))
    assert len(cuts) == 1


def test_small_work_stays_on_the_calling_thread() -> None:
    seen: list[int] = []
    Threads(4).run(lambda start, stop: seen.append(threading.get_ident()), 15, grain=8)
    assert seen == [threading.get_ident()]


def test_parts_run_at_the_same_time() -> None:
    threads = Threads(3)
    meeting = threading.Barrier(3, timeout=10)
    threads.run(lambda start, stop: meeting.wait(), 3)


def test_each_task_is_done_once_and_by_a_known_thread(threads: Threads) -> None:
    done = np.zeros(50, np.int64)
    workers: set[int] = set()

    def task(done: np.ndarray, index: int, thread: int) -> None:
        done[index] += 1
        workers.add(thread)

    threads.run_tasks(task, 50, done)
    assert (done == 1).all()
    assert workers <= set(range(threads.count))


def test_no_tasks_is_no_work(threads: Threads) -> None:
    threads.run_tasks(lambda index, thread: pytest.fail("called"), 0)


@pytest.mark.parametrize("bad_part", [0, 1, 2])
def test_an_error_in_any_part_reaches_the_caller_after_all_parts_ended(bad_part: int) -> None:
    threads = Threads(3)
    ended: list[int] = []

    def part(start: int, stop: int) -> None:
        if start == bad_part:
            raise ArithmeticError(f"part {start}")
        time.sleep(0.02)
        ended.append(start)

    with pytest.raises(ArithmeticError, match=f"part {bad_part}"):
        threads.run(part, 3)
    assert sorted(ended) == sorted({0, 1, 2} - {bad_part})


def test_threads_work_on_after_an_error() -> None:
    threads = Threads(2)
    with pytest.raises(ZeroDivisionError):
        threads.run(lambda start, stop: 1 // 0, 2)
    visits = np.zeros(10, np.int64)
    threads.run(count_visits, 10, visits)
    assert (visits == 1).all()


@pytest.mark.parametrize("inner_rows", [1, 2])
def test_a_run_inside_a_run_is_refused(inner_rows: int) -> None:
    threads = Threads(2)
    with pytest.raises(RuntimeError, match="already running"):
        threads.run(lambda start, stop: threads.run(lambda a, b: None, inner_rows), 2)


def test_an_interrupt_while_waiting_leaves_the_threads_usable() -> None:
    threads = Threads(2)
    worker = threads._workers[0]
    original = worker.wait
    finished: list[int] = []

    def interrupted_wait() -> BaseException | None:
        raise KeyboardInterrupt

    def part(start: int, stop: int) -> None:
        if start == 1:
            time.sleep(0.05)
            finished.append(start)

    worker.wait = interrupted_wait  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        threads.run(part, 2)
    assert finished == [1], "the worker still had the arrays when the caller went on"
    assert threads._workers[0] is not worker
    assert original is not None
    visits = np.zeros(10, np.int64)
    threads.run(count_visits, 10, visits)
    assert (visits == 1).all()


def test_a_sleeping_worker_keeps_no_array_alive() -> None:
    threads = Threads(3)
    dead: list[bool] = []

    class Watched:
        def __del__(self) -> None:
            dead.append(True)

    threads.run(lambda watched, start, stop: None, 3, Watched())
    gc.collect()
    assert dead == [True]


def started_by(make: Callable[[], Threads]) -> tuple[Threads, set[threading.Thread]]:
    """Threads that `make` gives, and the workers it started; other tests' workers may end at any time."""
    before = set(threading.enumerate())
    threads = make()
    return threads, set(threading.enumerate()) - before


def all_end(workers: set[threading.Thread]) -> bool:
    for worker in workers:
        worker.join(timeout=5)
    return not any(worker.is_alive() for worker in workers)


def test_closed_threads_refuse_work_and_end_their_workers() -> None:
    threads, workers = started_by(lambda: Threads(3))
    assert len(workers) == 2
    threads.close()
    threads.close()
    assert all_end(workers)
    with pytest.raises(RuntimeError, match="closed"):
        threads.run(count_visits, 10, np.zeros(10))


def test_dropped_threads_end_their_workers() -> None:
    threads, workers = started_by(lambda: Threads(3))
    threads.run(count_visits, 10, np.zeros(10))
    del threads
    gc.collect()
    assert len(workers) == 2
    assert all_end(workers)


def test_the_default_is_every_core_the_process_may_use() -> None:
    assert Threads().count == available_cores() >= 1


@pytest.mark.parametrize("count", [0, -1])
def test_fewer_than_one_thread_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Threads(count)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_of_several_tasks_that_fail_the_lowest_is_heard(count: int) -> None:
    begun: list[int] = []

    def task(index: int, thread: int) -> None:
        del thread
        begun.append(index)
        if index in (7, 9, 30):
            time.sleep(0.01 if index == 7 else 0)
            raise ArithmeticError(f"task {index}")

    threads = Threads(count)
    with pytest.raises(ArithmeticError, match="task 7"):
        threads.run_tasks(task, 40)
    assert set(range(8)) <= set(begun)
    threads.run_tasks(lambda index, thread: begun.append(index), 3)
    threads.close()

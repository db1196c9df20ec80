"""How `benchmarks.gpu_check` times kernels and what it makes of it; the figures of the host mean nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu.micro import cases_of
from benchmarks.gpu.micro_cases import CASES, Bench, MicroSizes, attention_flops
from benchmarks.gpu.sizes import HOST
from benchmarks.gpu.subject import Subject
from benchmarks.gpu.timing import ClockTimer, calls_for, seconds_of
from tests.cuda_host import host_runtime
from tests.cuda_host.host_sdpa import HostSdpa

SMALL = MicroSizes(
    gemm=32,
    packed=(32, 256),
    attention=(1, 2, 1, 8),
    lengths=(12, 20),
    rows=(16, 64),
    logits=(8, 50),
    parameters=1000,
    copied=1 << 12,
    small=16,
)


class SteadyTimer:
    """A device on which every call takes a millisecond."""

    def __init__(self) -> None:
        self.calls = 0

    def seconds(self, work: Any, calls: int) -> float:
        self.calls += calls
        for _ in range(min(calls, 2)):
            work()
        return 1e-3 * calls


@pytest.fixture(scope="module")
def subject() -> Iterator[Subject]:
    if not host_runtime.is_possible():
        pytest.skip(host_runtime.NO_COMPILER)
    yield Subject(host_runtime.HostRuntime(), HOST, HostSdpa())


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_every_case_gives_figures(subject: Subject, name: str) -> None:
    found = list(cases_of(Bench(subject, SteadyTimer(), SMALL))[name]())
    assert found
    for message in found:
        assert message["value"] > 0
        assert message["unit"] in ("TFLOP/s", "GB/s", "µs", "times")


def test_rates_are_work_by_time(subject: Subject) -> None:
    bench = Bench(subject, SteadyTimer(), SMALL)
    assert bench.matrix_rate == pytest.approx(2 * 32**3 / 1e-3)
    assert bench.copy_rate == pytest.approx(2 * 4096 / 1e-3)
    figure = bench.bandwidth("x", "", 4096, lambda: None)
    assert (figure.value, figure.against) == (pytest.approx(4096e3 / 1e9), "50% of copying")
    figure = bench.arithmetic("x", "", 32**3, lambda: None)
    assert (figure.value, figure.against) == (pytest.approx(32768e3 / 1e12), "50% of the large product")


def test_random_numbers_fill_arrays_that_are_longer_than_their_block(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.gpu.micro_cases._block", lambda: np.arange(7, dtype=np.float32))
    bench = Bench(subject, SteadyTimer(), SMALL)
    for size in (3, 7, 17):
        assert bench.backend.to_host(bench.random(size)).tolist() == [index % 7 for index in range(size)]
    assert bench.random(2, 5, dtype=np.float32).dtype == np.float32


def test_rounds_last_long_enough_to_be_measured() -> None:
    assert calls_for(1.0) == 1
    assert calls_for(1e-3) == 20
    assert calls_for(0.0) == 200
    timer = SteadyTimer()
    assert seconds_of(timer, lambda: None, rounds=5) == pytest.approx(1e-3)
    assert timer.calls == 2 + 5 * 20


def test_the_median_round_counts() -> None:
    class Uneven:
        taken = iter([9.0, 1.0, 3.0, 1.0, 2.0, 50.0, 2.5])

        def seconds(self, work: Any, calls: int) -> float:
            return next(self.taken) * calls

    assert seconds_of(Uneven(), lambda: None) == 2.5


def test_the_clock_of_the_host_runs() -> None:
    done: list[int] = []
    assert ClockTimer().seconds(lambda: done.append(1), 3) > 0
    assert len(done) == 3


def test_attention_computes_half_of_its_scores() -> None:
    assert attention_flops(batch=1, heads=1, length=10, width=4) == 2 * (2 * 10 * 10 * 4) / 2

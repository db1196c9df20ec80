"""What is worth a GPU: five times the time that starting it and copying the model take."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from entrenar_core.backend.gpu_worth import CPU_FLOPS, START_SECONDS, Work, worth_a_gpu

BILLION = 10**9
LORA = Work("train", BILLION, 2 * BILLION, tokens=10**6, adapters_only=True)


@pytest.mark.parametrize(
    ("work", "is_worth"),
    [
        (LORA, True),
        (replace(LORA, tokens=1000), False),
        (Work("train", 15_000_000, 60_000_000, tokens=20_000), False),
        (Work("train", 15_000_000, 60_000_000, tokens=10**6), True),
        (Work("evaluate", BILLION, 2 * BILLION, tokens=300_000), True),
        (Work("evaluate", BILLION, 2 * BILLION, tokens=500), False),
        (Work("calibrate", 8 * BILLION, 16 * BILLION, tokens=500 * 512), True),
        (Work("generate", BILLION, 600_000_000, tokens=20, written=128), False),
        (Work("generate", 7 * BILLION, 4 * BILLION, tokens=20, written=512), True),
    ],
    ids=lambda value: f"{value.kind} {value.parameters} {value.tokens}" if isinstance(value, Work) else "",
)
def test_work_and_whether_it_is_worth_a_gpu(work: Work, is_worth: bool) -> None:
    assert worth_a_gpu(work).is_worth is is_worth


def test_the_limit_is_five_times_the_move() -> None:
    tokens = round(5 * START_SECONDS * CPU_FLOPS / (2 * BILLION))
    assert worth_a_gpu(Work("evaluate", BILLION, 0, tokens)).is_worth
    assert not worth_a_gpu(Work("evaluate", BILLION, 0, tokens - 1)).is_worth


def test_gradients_are_as_much_work_again_for_inputs_and_for_weights() -> None:
    passes = [Work("evaluate", BILLION, 0, 1000), replace(LORA, tokens=1000), Work("train", BILLION, 0, 1000)]
    first = passes[0].cpu_seconds
    assert [each.cpu_seconds / first for each in passes] == pytest.approx([1, 2, 3])


def test_written_tokens_wait_for_the_weights_to_be_read() -> None:
    read, written = Work("generate", BILLION, 10**10, tokens=100), Work("generate", BILLION, 10**10, 0, written=100)
    assert written.cpu_seconds > 10 * read.cpu_seconds


@pytest.mark.property
@given(st.integers(1, 10**12), st.integers(0, 10**12), st.integers(0, 10**9), st.integers(0, 10**6))
def test_more_tokens_never_make_work_less_worth(parameters: int, n_bytes: int, tokens: int, more: int) -> None:
    work = Work("evaluate", parameters, n_bytes, tokens)
    assert worth_a_gpu(replace(work, tokens=tokens + more)).is_worth >= worth_a_gpu(work).is_worth


def test_weights_take_what_they_are_held_in() -> None:
    assert LORA.device_bytes == replace(LORA, n_bytes=4 * BILLION).device_bytes == 2 * BILLION
    assert replace(LORA, n_bytes=600_000_000).device_bytes == 600_000_000
    assert Work("train", BILLION, 2 * BILLION, 1).device_bytes == 18 * BILLION


def test_the_reason_says_both_times() -> None:
    assert worth_a_gpu(LORA).reason == (
        "a CPU would take about 2 hours, at least 5 times the 2 seconds of starting a GPU and copying the model"
    )
    assert worth_a_gpu(replace(LORA, tokens=100)).reason == (
        "a CPU would take about 0.8 seconds, less than 5 times the 2 seconds of starting a GPU and copying the model"
    )

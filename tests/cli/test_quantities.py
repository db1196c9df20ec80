"""Numbers as people read them."""

from __future__ import annotations

import pytest

from entrenar_cli.quantities import duration, exact_count, few_digits, perplexity, rate, short_count, size


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7.25, "7.25"), (950, "950"), (999.7, "1k"), (1234, "1.23k"), (12_345, "12.3k"), (999_900, "1M"),
     (7_080_000, "7.08M"), (1_100_000_000, "1.1B"), (123_456_000_000, "123B")],
)  # fmt: skip
def test_short_counts_have_three_digits_and_a_unit(value: float, text: str) -> None:
    assert short_count(value) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(12, "12 B"), (1024, "1.0 KiB"), (6 << 20, "6.0 MiB"), (3 << 30, "3.0 GiB"), (5 << 40, "5120.0 GiB")],
)
def test_sizes_are_in_powers_of_two(n_bytes: int, text: str) -> None:
    assert size(n_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (9.94, "9.9 s"), (9.96, "10 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"),
     (7620, "2 h 07 min")],
)  # fmt: skip
def test_durations_are_in_the_units_that_matter(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_counts_rates_and_perplexities() -> None:
    assert exact_count(12345) == "12,345"
    assert rate(10, 4) == 2.5
    assert rate(10, 0) == 0.0
    assert perplexity(0.0) == "1"
    assert perplexity(1000.0) == "huge"


@pytest.mark.parametrize(("value", "text"), [(0.123, "0.12"), (1.0, "1"), (9.9, "9.9"), (14.4, "14"), (100.0, "100")])
def test_few_digits_never_need_an_exponent(value: float, text: str) -> None:
    assert few_digits(value) == text

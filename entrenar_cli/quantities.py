"""Numbers for people: counts, sizes, durations, rates."""

from __future__ import annotations

import math

_COUNT_UNITS = ((1e9, "B"), (1e6, "M"), (1e3, "k"))
_SIZE_UNITS = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))


def exact_count(value: int) -> str:
    """12,345."""
    return f"{value:,}"


def short_count(value: float) -> str:
    """Three significant digits and a unit: 950, 1.23k, 7.08M."""
    for factor, unit in _COUNT_UNITS:
        if value >= factor * 0.9995:
            return f"{value / factor:.3g}{unit}" if value < factor * 999.5 else f"{value / factor:.0f}{unit}"
    return f"{value:.3g}" if value < 999.5 else f"{value:.0f}"


def size(n_bytes: int) -> str:
    """12 B, 3.4 KiB, 1.2 GiB."""
    for factor, unit in _SIZE_UNITS:
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} B"


def duration(seconds: float) -> str:
    """0.8 s, 12 s, 3 min 05 s, 2 h 07 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def few_digits(value: float) -> str:
    """Two significant digits, but all digits before the point: 0.12, 3.4, 100."""
    return f"{value:.2g}" if abs(value) < 9.95 else f"{value:.0f}"


def rate(amount: float, seconds: float) -> float:
    """Amount per second; 0 when no time has passed."""
    return amount / seconds if seconds > 0 else 0.0


def perplexity(loss: float) -> str:
    """exp(loss), as far as it says anything."""
    return f"{math.exp(loss):.4g}" if loss < 50 else "huge"

"""Holding a backend's kernel against the float64 reference: same inputs in, close results out, arguments untouched.

Inputs are rounded to float32 first, so that both sides see the same numbers. Closeness is measured against the largest
element of the truth, or against the `terms` that a result is the difference of, where they may cancel to nothing: no
element is asked for more digits than its terms had. NaN and infinity must stand in the same places.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from entrenar_core.backend.reference import ReferenceBackend

TRUTH = ReferenceBackend(np.float64)
FLOAT32_TOLERANCE = 5e-6


def assert_close(actual: Any, truth: Any, tolerance: float, what: str = "result", terms: float = 0.0) -> None:
    """|actual - truth| <= tolerance · max(|truth|, terms) where truth is finite; elsewhere the same NaN or infinity."""
    actual, truth = np.asarray(actual, np.float64), np.asarray(truth, np.float64)
    assert actual.shape == truth.shape, f"{what}: shape {actual.shape}, expected {truth.shape}"
    finite = np.isfinite(truth)
    np.testing.assert_array_equal(actual[~finite], truth[~finite], err_msg=f"{what}: NaN or infinity")
    assert np.isfinite(actual[finite]).all(), f"{what}: not finite where the truth is"
    largest = np.abs(truth[finite]).max(initial=terms)
    worst = np.abs(actual[finite] - truth[finite]).max(initial=0.0)
    assert worst <= tolerance * largest, f"{what}: off by {worst:.3g}, allowed {tolerance:g} of {largest:.3g}"


def on(backend: Any, value: Any) -> Any:
    """A float array rounded to float32 and brought to the backend's dtype; integers and everything else as they are."""
    if not isinstance(value, np.ndarray):
        return value
    if value.dtype.kind == "f":
        return backend.asarray(value.astype(np.float32).astype(backend.dtype))
    return backend.asarray(value.copy())


def call(backend: Any, kernel: str, *args: Any, **options: Any) -> tuple[np.ndarray, ...]:
    """The kernel's results on the host; fails if it changed an argument or returned a wrong dtype or layout."""
    there = [on(backend, arg) for arg in args]
    before = [backend.to_host(arg).copy() if isinstance(arg, backend.xp.ndarray) else None for arg in there]
    results = getattr(backend, kernel)(*there, **options)
    for index, (arg, old) in enumerate(zip(there, before, strict=True)):
        if old is not None:
            np.testing.assert_array_equal(backend.to_host(arg), old, err_msg=f"{kernel} changed argument {index}")
    results = results if isinstance(results, tuple) else (results,)
    for index, result in enumerate(results):
        assert result is None or result.dtype == backend.dtype, f"{kernel}: result {index} is {result.dtype}"
        assert result is None or result.flags.c_contiguous, f"{kernel}: result {index} is not contiguous"
    return tuple(None if result is None else backend.to_host(result) for result in results)


def assert_agrees(
    backend: Any, kernel: str, *args: Any, tolerance: float = FLOAT32_TOLERANCE, terms: float = 0.0, **options: Any
) -> tuple[np.ndarray, ...]:
    """Run a kernel on the backend and on the float64 reference, compare each result, and return the truth's."""
    truths = call(TRUTH, kernel, *args, **options)
    actuals = call(backend, kernel, *args, **options)
    for index, (actual, truth) in enumerate(zip(actuals, truths, strict=True)):
        assert (actual is None) == (truth is None)
        if truth is not None:
            assert_close(actual, truth, tolerance, f"{kernel}, result {index}", terms)
    return truths

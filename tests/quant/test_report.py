"""Figures of an error: of values that are known, weighed or not, and what is written of them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.report import ErrorSums, TensorReport, error_document, measure, total_errors

VALUES = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]], np.float32)
ROUNDED = np.array([[1.5, -2.0, 3.25], [0.0, 3.0, -1.0]], np.float32)
IMPORTANCE = np.array([4.0, 0.5, 2.0], np.float32)


def test_errors_are_summed_over_all_values() -> None:
    found = measure(VALUES, ROUNDED, None)
    assert (found.count, found.squared, found.power, found.largest) == (6, 0.25 + 0.0625 + 1.0, 31.0, 1.0)
    assert found.rmse == math.sqrt(1.3125 / 6)
    assert found.sqnr == pytest.approx(10 * math.log10(31.0 / 1.3125))
    assert found.weighted_rmse is None


def test_the_largest_error_has_no_sign() -> None:
    assert measure(ROUNDED, VALUES, None).largest == measure(VALUES, ROUNDED, None).largest == 1.0


def test_columns_count_by_their_importance() -> None:
    found = measure(VALUES, ROUNDED, IMPORTANCE)
    assert (found.weighted, found.weight) == (4.0 * 0.25 + 0.5 * 1.0 + 2.0 * 0.0625, 2 * 6.5)
    assert found.weighted_rmse == math.sqrt(1.625 / 13)
    assert measure(VALUES, ROUNDED, None) == ErrorSums(found.count, found.squared, found.power, found.largest)


def test_equal_importance_changes_nothing() -> None:
    found = measure(VALUES, ROUNDED, np.full(3, 7.0, np.float32))
    assert found.weighted_rmse == pytest.approx(found.rmse, rel=1e-12)


def test_sums_of_pieces_are_those_of_the_whole() -> None:
    parts = [measure(VALUES[row : row + 1], ROUNDED[row : row + 1], IMPORTANCE) for row in (0, 1)]
    whole = measure(VALUES, ROUNDED, IMPORTANCE)
    assert parts[0] + parts[1] == parts[1] + parts[0] == whole
    assert (parts[0] + parts[1]).largest == 1.0


def test_what_is_exact_has_no_noise_and_zeros_have_no_signal() -> None:
    assert measure(VALUES, VALUES, None).sqnr is None
    assert measure(VALUES, VALUES, None).rmse == 0.0
    zeros = measure(np.zeros_like(VALUES), ROUNDED, None)
    assert zeros.sqnr is None
    assert zeros.rmse > 0
    assert ErrorSums().rmse == 0.0


def report(errors: ErrorSums | None, type_name: str = "Q4_0") -> TensorReport:
    info = TensorInfo("blk.0.attn_q.weight", (3, 64), "F16", 384, 0)
    return TensorReport.of(PlannedTensor(info, type_name), errors)


def test_a_tensor_is_written_with_its_sizes_and_errors() -> None:
    sums = measure(VALUES, ROUNDED, IMPORTANCE)
    assert report(sums).document() == {
        "name": "blk.0.attn_q.weight",
        "shape": [3, 64],
        "source_type": "F16",
        "type": "Q4_0",
        "source_bytes": 384,
        "n_bytes": 3 * 2 * 18,
        "rmse": sums.rmse,
        "max_error": 1.0,
        "sqnr_db": sums.sqnr,
        "weighted_rmse": sums.weighted_rmse,
    }


def test_a_copy_has_no_errors() -> None:
    found = report(None, "F16").document()
    assert found["n_bytes"] == 384
    assert error_document(None) == dict.fromkeys(("rmse", "max_error", "sqnr_db", "weighted_rmse"))
    assert {key: found[key] for key in error_document(None)} == error_document(None)


def test_the_total_leaves_copies_out() -> None:
    one, other = ErrorSums(2, 1.0, 4.0, 0.5, 3.0, 2.0), ErrorSums(3, 2.0, 8.0, 0.25)
    assert total_errors([report(one), report(None), report(other)]) == ErrorSums(5, 3.0, 12.0, 0.5, 3.0, 2.0)
    assert total_errors([]) == ErrorSums()

"""What is written of the errors of a tensor, and of all of them."""

from __future__ import annotations

import numpy as np

from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.quant.error_sums import ErrorSums, measure
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.report import TensorReport, error_document, total_errors

VALUES = np.array([[1.0, -2.0, 3.0], [0.0, 4.0, -1.0]], np.float32)
ROUNDED = np.array([[1.5, -2.0, 3.25], [0.0, 3.0, -1.0]], np.float32)
IMPORTANCE = np.array([4.0, 0.5, 2.0], np.float32)


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

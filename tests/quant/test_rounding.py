"""What is said of the error of an encoded tensor."""

from __future__ import annotations

from entrenar_core.quant.error_sums import ErrorSums
from entrenar_core.quant.rounding import TensorError


def test_without_a_start_an_error_says_nothing_of_the_change() -> None:
    error = TensorError.of("w", "Q4_0", ErrorSums(4, 1.0, 4.0), has_start=False)
    assert (error.change_rms, error.change_share) == (None, None)


def test_an_error_says_how_large_it_is_beside_values_and_change() -> None:
    sums = ErrorSums(count=4, power=400.0, squared=4.0, changed=1.0, largest=1.5)
    error = TensorError.of("w", "Q4_0", sums, has_start=True)
    assert (error.rmse, error.max_error, error.sqnr_db, error.change_rms) == (1.0, 1.5, 20.0, 0.5)
    assert error.change_share == 2.0


def test_a_tensor_that_did_not_change_has_no_share() -> None:
    sums = ErrorSums(count=4, power=4.0, squared=1.0)
    assert TensorError.of("w", "Q4_0", sums, has_start=True).change_share is None

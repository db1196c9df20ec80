"""What encoding costs a tensor: the error of rounding, beside the size of the values and of what training changed.

Sums are taken piece by piece in float64 and added up in the order of the pieces, so they do not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.base import CHUNK_VALUES, Floats


@dataclass(frozen=True)
class ErrorSums:
    """Sums over some values: their squares, the squares of their errors and of their changes, the largest error."""

    n_values: int = 0
    squares: float = 0.0
    error_squares: float = 0.0
    change_squares: float = 0.0
    largest: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.n_values + other.n_values,
            self.squares + other.squares,
            self.error_squares + other.error_squares,
            self.change_squares + other.change_squares,
            max(self.largest, other.largest),
        )

    @classmethod
    def of(cls, values: Floats, decoded: Floats, start: Floats | None = None) -> ErrorSums:
        """Of values of any shape, what they decode to, and what they were before training (None: not known)."""
        parts = [_flat_parts(each) for each in (values, decoded, values if start is None else start)]
        found = cls()
        for meant, written, before in zip(*parts, strict=True):
            errors = written - meant
            found += cls(
                meant.size,
                _square_sum(meant),
                _square_sum(errors),
                0.0 if start is None else _square_sum(meant - before),
                float(np.abs(errors).max(initial=0.0)),
            )
        return found


@dataclass(frozen=True)
class TensorError:
    """The error of one encoded tensor.

    Attributes:
        name, type_name: of the tensor, and what it was encoded as.
        n_values: how many there are.
        rmse: root of the mean squared error.
        max_error: the largest error of a value.
        sqnr_db: 10·log10(Σ value² / Σ error²); None where there is no error or only zeros.
        change_rms: root of the mean square of what training changed; None where that is not known.
    """

    name: str
    type_name: str
    n_values: int
    rmse: float
    max_error: float
    sqnr_db: float | None
    change_rms: float | None = None

    @classmethod
    def of(cls, name: str, type_name: str, sums: ErrorSums, *, has_start: bool) -> TensorError:
        """From the sums over all of its values."""
        n_values = max(sums.n_values, 1)
        return cls(
            name,
            type_name,
            sums.n_values,
            math.sqrt(sums.error_squares / n_values),
            sums.largest,
            sqnr_db(sums.squares, sums.error_squares),
            math.sqrt(sums.change_squares / n_values) if has_start else None,
        )

    @property
    def change_share(self) -> float | None:
        """The error of rounding over the size of the change: above 1, most of the change is lost."""
        return self.rmse / self.change_rms if self.change_rms else None


def sqnr_db(squares: float, error_squares: float) -> float | None:
    """Signal to quantization noise in decibels; None without noise or without a signal."""
    return 10 * math.log10(squares / error_squares) if squares > 0 and error_squares > 0 else None


def added_up(sums: Iterable[ErrorSums]) -> ErrorSums:
    """The sum, in the order given."""
    total = ErrorSums()
    for one in sums:
        total += one
    return total


def _flat_parts(values: Floats) -> list[Floats]:
    flat = np.ascontiguousarray(values).reshape(-1)
    return [flat[start : start + CHUNK_VALUES] for start in range(0, flat.size, CHUNK_VALUES)]


def _square_sum(values: Floats) -> float:
    return float(np.square(values, dtype=np.float64).sum())

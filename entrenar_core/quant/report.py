"""How far a quantized file is from its source, tensor by tensor.

Sums are taken over pieces of rows and added in the order of the file, so that they do not depend on threads.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.base import Floats
from entrenar_core.quant.plan import PlannedTensor


@dataclass(frozen=True)
class ErrorSums:
    """Over `count` values: squared errors, squared values, the largest error; and, where columns have an importance,
    the squared errors weighed by it and the sum of the weights (0: none)."""

    count: int = 0
    squared: float = 0.0
    power: float = 0.0
    largest: float = 0.0
    weighted: float = 0.0
    weight: float = 0.0

    def __add__(self, other: ErrorSums) -> ErrorSums:
        return ErrorSums(
            self.count + other.count,
            self.squared + other.squared,
            self.power + other.power,
            max(self.largest, other.largest),
            self.weighted + other.weighted,
            self.weight + other.weight,
        )

    @property
    def rmse(self) -> float:
        """Root of the mean squared error."""
        return math.sqrt(self.squared / self.count) if self.count else 0.0

    @property
    def weighted_rmse(self) -> float | None:
        """The same with each column weighed by its importance; None where there is none."""
        return math.sqrt(self.weighted / self.weight) if self.weight else None

    @property
    def sqnr(self) -> float | None:
        """Signal to quantization noise in dB, 10·log10(Σx²/Σe²); None where there is no noise or no signal."""
        return 10 * math.log10(self.power / self.squared) if self.squared and self.power else None


def measure(values: Floats, rounded: Floats, importance: Floats | None) -> ErrorSums:
    """The sums of rows float32 [R, C] and of what they were rounded to; importance: float32 [C]."""
    from entrenar_core.quant.error_kernels import error_sums, weighted_error_sum  # numba loads slowly

    squared, power, largest = error_sums(values.reshape(-1), rounded.reshape(-1))
    sums = ErrorSums(values.size, float(squared), float(power), float(largest))
    if importance is None:
        return sums
    weighted = float(weighted_error_sum(values, rounded, importance))
    weight = float(importance.sum(dtype=np.float64)) * len(values)
    return sums + ErrorSums(weighted=weighted, weight=weight)


@dataclass(frozen=True)
class TensorReport:
    """One tensor: what it was, what it became, and the error; None for a copy."""

    name: str
    shape: tuple[int, ...]
    source_type: str
    type_name: str
    source_bytes: int
    n_bytes: int
    errors: ErrorSums | None

    @classmethod
    def of(cls, tensor: PlannedTensor, errors: ErrorSums | None) -> TensorReport:
        info = tensor.info
        shape = tuple(info.shape)
        return cls(info.name, shape, info.type_name, tensor.type_name, info.n_bytes, tensor.n_bytes, errors)

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "source_type": self.source_type,
            "type": self.type_name,
            "source_bytes": self.source_bytes,
            "n_bytes": self.n_bytes,
            **error_document(self.errors),
        }


def total_errors(tensors: Iterable[TensorReport]) -> ErrorSums:
    """The sums over all tensors that were rounded."""
    total = ErrorSums()
    for tensor in tensors:
        if tensor.errors is not None:
            total += tensor.errors
    return total


def error_document(errors: ErrorSums | None) -> dict[str, object]:
    """The figures of an error for JSON; null where nothing was rounded."""
    if errors is None:
        return {"rmse": None, "max_error": None, "sqnr_db": None, "weighted_rmse": None}
    return {
        "rmse": errors.rmse,
        "max_error": errors.largest,
        "sqnr_db": errors.sqnr,
        "weighted_rmse": errors.weighted_rmse,
    }

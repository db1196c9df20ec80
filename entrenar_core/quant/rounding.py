"""What encoding cost a tensor of a trained model: the error of rounding, beside what training changed."""

from __future__ import annotations

from dataclasses import dataclass

from entrenar_core.quant.error_sums import ErrorSums


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
        change_rms = sums.change_rms if has_start else None
        return cls(name, type_name, sums.count, sums.rmse, sums.largest, sums.sqnr, change_rms)

    @property
    def change_share(self) -> float | None:
        """The error of rounding over the size of the change: above 1, most of the change is lost."""
        return self.rmse / self.change_rms if self.change_rms else None

"""How far a quantized file is from its source, tensor by tensor."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from entrenar_core.quant.error_sums import ErrorSums, added_up
from entrenar_core.quant.plan import PlannedTensor


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
    return added_up(tensor.errors for tensor in tensors if tensor.errors is not None)


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

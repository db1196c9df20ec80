"""What a merge did to a tensor: sizes of the changes, how far the models agree, and how close the result is to each.

Where there is a base, everything is about changes Δ against it, else about the values themselves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.passes import Combine, Floats, Inputs, SparseCombine

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PieceMeasure:
    """Sums over a piece.

    Attributes:
        gram: inner products of Δ_1 ... Δ_N and the merged Δ, float64 [N+1, N+1].
        shared: entries that at least two models changed.
        agreed: those of them that all of these models changed in one direction.
        kept: entries that are left of each model's change, by a method that drops some.
        changed: entries in which the result differs from the base.
        n_values: all entries.
    """

    gram: Doubles
    shared: int
    agreed: int
    kept: tuple[int, ...] | None
    changed: int
    n_values: int


@dataclass(frozen=True)
class TensorMeasure:
    """See `PieceMeasure`; norms, cosines and kept have an entry for each model. Shares are of all entries."""

    norms: tuple[float, ...]
    merged_norm: float
    cosines: tuple[float | None, ...]
    sign_agreement: float | None
    kept: tuple[float, ...] | None
    changed: float

    @classmethod
    def of(cls, pieces: Sequence[PieceMeasure]) -> TensorMeasure:
        """The measures of a tensor from those of its pieces. Cosines with a zero vector are None."""
        gram = sum((piece.gram for piece in pieces[1:]), pieces[0].gram)
        lengths = np.sqrt(np.diag(gram))
        shared = sum(piece.shared for piece in pieces)
        return cls(
            norms=tuple(float(length) for length in lengths[:-1]),
            merged_norm=float(lengths[-1]),
            cosines=tuple(_cosine(gram[i, -1], lengths[i] * lengths[-1]) for i in range(len(lengths) - 1)),
            sign_agreement=sum(piece.agreed for piece in pieces) / shared if shared else None,
            kept=_kept(pieces),
            changed=sum(piece.changed for piece in pieces) / sum(piece.n_values for piece in pieces),
        )

    def document(self) -> dict[str, object]:
        """For JSON."""
        return {
            "norms": list(self.norms),
            "merged_norm": self.merged_norm,
            "cosines": list(self.cosines),
            "sign_agreement": self.sign_agreement,
            "kept": None if self.kept is None else list(self.kept),
            "changed": self.changed,
        }


def measure_piece(inputs: Inputs, merged: Floats, combine: Combine) -> PieceMeasure:
    """The sums of a piece; merged float32 [r, C] is what `combine` made of it."""
    start = np.float32(0) if inputs.base is None else inputs.base
    changes = np.concatenate([inputs.models - start, (merged - start)[None]]).reshape(len(inputs.models) + 1, -1)
    wide = changes.astype(np.float64)
    up, down = (changes[:-1] > 0).sum(axis=0), (changes[:-1] < 0).sum(axis=0)
    is_shared = up + down > 1
    return PieceMeasure(
        gram=wide @ wide.T,
        shared=int(np.count_nonzero(is_shared)),
        agreed=int(np.count_nonzero(is_shared & ((up == 0) | (down == 0)))),
        kept=combine.n_kept(inputs) if isinstance(combine, SparseCombine) else None,
        changed=int(np.count_nonzero(changes[-1])),
        n_values=changes.shape[1],
    )


def _kept(pieces: Sequence[PieceMeasure]) -> tuple[float, ...] | None:
    counts = [piece.kept for piece in pieces if piece.kept is not None]
    n_values = sum(piece.n_values for piece in pieces)
    return tuple(sum(of_model) / n_values for of_model in zip(*counts, strict=True)) if counts else None


def _cosine(product: float, lengths: float) -> float | None:
    if not lengths > 0:
        return None
    return max(-1.0, min(1.0, float(product / lengths))) if math.isfinite(lengths) else None

"""What is measured of a merged tensor, against sums by hand."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.merge.measures import TensorMeasure, measure_piece
from entrenar_core.merge.passes import Floats, Inputs, Piece

BASE = np.array([[1.0, 1.0, 1.0, 1.0]], np.float32)
CHANGES = np.array([[[3.0, 4.0, 0.0, 0.0]], [[1.0, -1.0, 2.0, 0.0]]], np.float32)
MERGED = np.array([[4.0, 0.0, 0.0, 0.0]], np.float32)


def measured(changes: Floats, merged: Floats, base: Floats | None, n_pieces: int = 1) -> TensorMeasure:
    """The measure of changes and a merged change, seen in several pieces of columns."""
    pieces = []

    def combine(inputs: Inputs, out: Floats) -> None:
        """Drops nothing, and is not called."""

    for number, columns in enumerate(np.array_split(np.arange(merged.shape[1]), n_pieces)):
        start = np.float32(0) if base is None else base[:, columns]
        inputs = Inputs(Piece(number, 0, 1), changes[:, :, columns] + start, None if base is None else start)
        pieces.append(measure_piece(inputs, merged[:, columns] + start, combine))
    return TensorMeasure.of(pieces)


@pytest.mark.parametrize("n_pieces", [1, 2, 4])
@pytest.mark.parametrize("base", [BASE, None], ids=["over a base", "of the values"])
def test_norms_cosines_and_shares(base: Floats | None, n_pieces: int) -> None:
    found = measured(CHANGES, MERGED, base, n_pieces)
    assert found.norms == pytest.approx((5.0, 6**0.5))
    assert found.merged_norm == pytest.approx(4.0)
    assert found.cosines == pytest.approx((12 / 20, 4 / (4 * 6**0.5)))
    assert found.sign_agreement == pytest.approx(1 / 2), "of two entries that both changed, one has one sign"
    assert found.changed == pytest.approx(1 / 4)
    assert found.kept is None, "nothing is dropped"


def test_what_did_not_change_has_no_direction() -> None:
    found = measured(np.zeros_like(CHANGES), np.zeros_like(MERGED), BASE)
    assert found.cosines == (None, None)
    assert found.sign_agreement is None
    assert (found.norms, found.merged_norm, found.changed) == ((0.0, 0.0), 0.0, 0.0)


def test_a_model_and_itself_point_one_way() -> None:
    found = measured(CHANGES[:1], CHANGES[0], BASE)
    assert found.cosines == pytest.approx((1.0,))
    assert found.document()["cosines"] == list(found.cosines)

"""Inner products of models and of their changes."""

from __future__ import annotations

import numpy as np
import pytest

from entrenar_core.merge.gram import changes_of, cosine, gram_matrix, row_products, symmetric
from entrenar_core.merge.passes import Inputs, Piece
from tests.merge.merging import floats


def inputs(models: np.ndarray, base: np.ndarray | None = None) -> Inputs:
    return Inputs(Piece(0, 0, models.shape[1]), models, base)


def gram(*pieces: Inputs, **options: bool) -> np.ndarray:
    passes = gram_matrix(**options)
    one = next(passes)
    assert one.fold is None
    with pytest.raises(StopIteration) as end:
        passes.send([one.look(piece) for piece in pieces])
    return np.asarray(end.value.value)


def test_products_of_each_row_by_hand() -> None:
    models = floats(1, 2, 3, 4, 5, 6, 7, 8).reshape(2, 2, 2)
    products = row_products(models)
    assert products.dtype == np.float64
    assert products.tolist() == [[5, 25], [17, 53], [0, 0], [61, 113]]
    assert symmetric(products)[..., 0].tolist() == [[5, 17], [17, 61]]


def test_the_matrix_of_models_of_changes_and_with_the_base(rng: np.random.Generator) -> None:
    models = rng.standard_normal((3, 4, 5)).astype(np.float32)
    base = rng.standard_normal((4, 5)).astype(np.float32)
    pieces = [inputs(models[:, rows].copy(), base[rows].copy()) for rows in (slice(0, 1), slice(1, 4))]
    flat = models.reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(gram(*pieces), flat @ flat.T, rtol=1e-12)
    both = np.concatenate([flat, base.reshape(1, -1)])
    np.testing.assert_allclose(gram(*pieces, with_base=True), both @ both.T, rtol=1e-12)
    changes = (models - base).reshape(3, -1).astype(np.float64)
    np.testing.assert_allclose(gram(*pieces, of_changes=True), changes @ changes.T, rtol=1e-12)


def test_sums_do_not_overflow_in_double_precision() -> None:
    huge = np.full((1, 1, 8), 1e30, np.float32)
    assert gram(inputs(huge))[0, 0] == pytest.approx(8e60)


def test_changes_need_a_base() -> None:
    with pytest.raises(ValueError, match="measured against a base"):
        changes_of(inputs(np.zeros((1, 1, 1), np.float32)))


def test_cosines_are_between_minus_one_and_one_and_zero_for_zero_vectors() -> None:
    assert cosine(np.array([[4.0, 3.0], [3.0, 9.0]]), 0, 1) == 0.5
    assert cosine(np.array([[1.0, 1.0 + 1e-15], [1.0, 1.0]]), 0, 1) == 1.0
    assert cosine(np.array([[1.0, -1.0 - 1e-15], [1.0, 1.0]]), 0, 1) == -1.0
    assert cosine(np.array([[0.0, 0.0], [0.0, 9.0]]), 0, 1) == 0.0
    assert cosine(np.array([[1e-200, 5e-201], [5e-201, 1e-200]]), 0, 1) == 0.5, (
        "norms, not their squares, are multiplied"
    )

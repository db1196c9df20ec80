"""Inner products of models, or of their changes: all that a merge on the sphere has to know about whole tensors.

Products are summed in double precision, first along each row and then over all rows, so that they do not depend on how
a tensor is cut into pieces.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.passes import Floats, Inputs, Pass
from entrenar_core.stored_kernels import StoredKernel

Doubles = npt.NDArray[np.float64]

_dot_products = StoredKernel("entrenar_core.merge.linear_kernels", "dot_products")


def gram_matrix(*, of_changes: bool = False) -> Generator[Pass, Any, Doubles]:
    """One pass. The inner products of all models, float64 [N, N]; `of_changes`: of the models less the base."""
    rows = yield Pass(lambda inputs: row_products(inputs, of_changes=of_changes))
    totals = np.concatenate(rows, axis=1).sum(axis=1)
    return symmetric(totals[:, None])[..., 0]


def row_products(inputs: Inputs, *, of_changes: bool = False) -> Doubles:
    """The inner products of each row of a piece, float64 [N², r]; those of i > j are zero."""
    vectors = changes(inputs) if of_changes else inputs.models
    n_models, n_rows, n_columns = vectors.shape
    products = np.zeros((n_models * n_models, n_rows))
    _dot_products(vectors.reshape(n_models * n_rows, n_columns), products, np.array([n_models]))
    return products


def changes(inputs: Inputs) -> Floats:
    """The models less the base, float32 [N, r, C]."""
    if inputs.base is None:
        raise ValueError("changes are measured against a base, and there is none")
    return inputs.models - inputs.base


def symmetric(products: Doubles) -> Doubles:
    """[N², V] with zeros below the diagonal -> [N, N, V]."""
    count = round(products.shape[0] ** 0.5)
    upper = products.reshape(count, count, -1)
    below = np.tril_indices(count, -1)
    whole = upper.copy()
    whole[below] = upper.transpose(1, 0, 2)[below]
    return whole

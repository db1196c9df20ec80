"""Inner products of models, or of their changes: all that a merge on the sphere has to know about whole tensors.

Products are summed in double precision, first along each row and then over all rows, so that they do not depend on how
a tensor is cut into pieces.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.passes import Floats, Inputs, Pass
from entrenar_core.stored_kernels import StoredKernel

Doubles = npt.NDArray[np.float64]

_dot_products = StoredKernel("entrenar_core.merge.linear_kernels", "dot_products")


def gram_matrix(*, of_changes: bool = False, with_base: bool = False) -> Generator[Pass, Any, Doubles]:
    """One pass. The inner products of all models, float64 [N, N].

    Args:
        of_changes: take the models less the base.
        with_base: take the base as one more model, the last one.
    """

    def look(inputs: Inputs) -> Doubles:
        return row_products(changes_of(inputs) if of_changes else _with_base(inputs) if with_base else inputs.models)

    rows = yield Pass(look)
    return symmetric(np.concatenate(rows, axis=1).sum(axis=1)[:, None])[..., 0]


def row_products(vectors: Floats) -> Doubles:
    """[N, r, C] -> the inner products of each row, float64 [N², r]; those of i > j are zero."""
    n_models, n_rows, n_columns = vectors.shape
    products = np.zeros((n_models * n_models, n_rows))
    _dot_products(vectors.reshape(n_models * n_rows, n_columns), products, np.array([n_models]))
    return products


def changes_of(inputs: Inputs) -> Floats:
    """The models less the base, float32 [N, r, C]."""
    if inputs.base is None:
        raise ValueError("changes are measured against a base, and there is none")
    return inputs.models - inputs.base


def _with_base(inputs: Inputs) -> Floats:
    if inputs.base is None:
        return inputs.models
    return np.concatenate([inputs.models, inputs.base[None]])


def cosine(products: Doubles, first: int, second: int) -> float:
    """Of the angle between two vectors, from inner products; zero has a right angle to everything."""
    norms = math.sqrt(products[first, first]) * math.sqrt(products[second, second])
    return min(1.0, max(-1.0, float(products[first, second]) / norms)) if norms > 0 else 0.0


def symmetric(products: Doubles) -> Doubles:
    """[N², V] with zeros below the diagonal -> [N, N, V]."""
    count = round(products.shape[0] ** 0.5)
    upper = products.reshape(count, count, -1)
    below = np.tril_indices(count, -1)
    whole = upper.copy()
    whole[below] = upper.transpose(1, 0, 2)[below]
    return whole

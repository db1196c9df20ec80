"""NuSLERP: SLERP between two weighted models, or between their changes, of whole tensors or of rows or columns."""

from __future__ import annotations

import numpy as np

from entrenar_core.merge.ensembles import share
from entrenar_core.merge.gram import Doubles, changes_of, row_products, symmetric
from entrenar_core.merge.passes import Floats, Inputs, Parameters, Pass, Passes, TensorFacts

_SMALLEST_SINE = 1e-6
"""Below this two directions are parallel. Cosines of double precision tell angles apart down to 2e-8, and between
opposite directions the error of an angle is multiplied by the inverse of its sine."""


def nuslerp(tensor: TensorFacts, parameters: Parameters) -> Passes:
    """From the first model to the second, as far as is the second's part of the two weights.

    With `flatten` a tensor counts as one vector; without, each of its rows does, or with `row_wise` each column of a
    matrix, as mergekit has it. With a base, what lies between the changes is put on the base.
    """
    t = share(*parameters.weight)
    if parameters.flatten:
        rows = yield Pass(lambda inputs: row_products(_vectors(inputs)))
        products = np.concatenate(rows, axis=1).sum(axis=1, keepdims=True)
    elif parameters.row_wise and tensor.shape[0] > 1:
        pieces = yield Pass(lambda inputs: _column_products(_vectors(inputs)))
        products = np.sum(pieces, axis=0)
    else:
        return lambda inputs, out: _write(_coefficients(row_products(_vectors(inputs)), t)[..., None], inputs, out)
    factors = _coefficients(products, t)[:, None, :]
    return lambda inputs, out: _write(factors, inputs, out)


def _vectors(inputs: Inputs) -> Floats:
    return inputs.models if inputs.base is None else changes_of(inputs)


def _column_products(vectors: Floats) -> Doubles:
    """[2, r, C] -> inner products of the columns, float64 [4, C]."""
    columns = vectors.astype(np.float64)
    return np.einsum("irc,jrc->ijc", columns, columns).reshape(4, -1)


def _coefficients(products: Doubles, t: float) -> Doubles:
    """Inner products of V pairs of vectors, [4, V] -> what the two of each are multiplied by, [2, V]."""
    whole = symmetric(products)
    norms = np.sqrt(whole[0, 0]) * np.sqrt(whole[1, 1])
    cos = np.divide(whole[0, 1], norms, out=np.zeros_like(norms), where=norms > 0)
    angle = np.arccos(np.clip(cos, -1, 1))
    sine = np.sin(angle)
    is_arc = sine >= _SMALLEST_SINE
    divisor = np.where(is_arc, sine, 1)
    first = np.where(is_arc, np.sin((1 - t) * angle) / divisor, 1 - t)
    return np.stack([first, np.where(is_arc, np.sin(t * angle) / divisor, t)])


def _write(factors: Doubles, inputs: Inputs, out: Floats) -> None:
    """factors: [2, r or 1, C or 1]."""
    first, second = factors.astype(np.float32)
    of_first, of_second = _vectors(inputs)
    np.multiply(first, of_first, out=out)
    out += second * of_second
    if inputs.base is not None:
        out += inputs.base

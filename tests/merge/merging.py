"""Merges of small arrays: by the name of the method, as one piece and as many in any order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from entrenar_core.merge.passes import Inputs, Parameters, Pass, Piece, TensorFacts, merge_arrays
from entrenar_core.merge.registry import method_entry


def floats(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def parameters(n_models: int, **changed: Any) -> Parameters:
    """What no test says is 1 for each model, and the default of `Parameters`."""
    ones = (1.0,) * n_models
    of_models: dict[str, Any] = {"weight": ones, "density": ones, "scale": ones}
    of_models |= {"gamma": (0.0,) * n_models, "epsilon": (0.1,) * n_models}
    changed = {key: tuple(value) if isinstance(value, list) else value for key, value in changed.items()}
    return Parameters(**(of_models | changed))


def merged(
    method: str, models: Sequence[np.ndarray], base: np.ndarray | None = None, name: str = "t", **changed: Any
) -> np.ndarray:
    """The merge as one piece."""
    return merge_arrays(method_entry(method).run, models, parameters(len(models), **changed), base=base, name=name)


def changes_merged(method: str, deltas: Sequence[np.ndarray], name: str = "t", **changed: Any) -> np.ndarray:
    """The merge over a base of zeros."""
    return merged(method, deltas, np.zeros_like(deltas[0]), name, **changed)


def merged_in_pieces(
    method: str,
    models: Sequence[np.ndarray],
    base: np.ndarray | None = None,
    name: str = "t",
    rows: int = 1,
    order: np.random.Generator | None = None,
    **changed: Any,
) -> np.ndarray:
    """The merge of matrices [R, C] in pieces of so many rows, which come in another order in every pass."""
    order = order or np.random.default_rng(7)
    n_rows, n_columns = models[0].shape
    starts = range(0, n_rows, rows)
    pieces = [Piece(number, first, min(rows, n_rows - first)) for number, first in enumerate(starts)]

    def inputs(piece: Piece) -> Inputs:
        part = slice(piece.first_row, piece.first_row + piece.n_rows)
        models_there = np.ascontiguousarray(np.stack([model[part] for model in models]), np.float32)
        return Inputs(piece, models_there, None if base is None else np.ascontiguousarray(base[part], np.float32))

    def look(one: Pass) -> Any:
        results: dict[int, Any] = {}
        for number in order.permutation(len(pieces)):
            results[number] = one.look(inputs(pieces[number]))
        if one.fold is None:
            return [results[piece.number] for piece in pieces]
        folded = list(results.values())
        while len(folded) > 1:
            folded[:2] = [one.fold(folded[0], folded[1])]
        return folded[0]

    facts = TensorFacts(name, (n_rows, n_columns), len(models), base is not None)
    passes = method_entry(method).run(facts, parameters(len(models), **changed))
    out = np.full((n_rows, n_columns), np.nan, np.float32)
    try:
        one = next(passes)
        while True:
            one = passes.send(look(one))
    except StopIteration as end:
        combine = end.value
    for number in order.permutation(len(pieces)):
        piece = pieces[number]
        combine(inputs(piece), out[piece.first_row : piece.first_row + piece.n_rows])
    return out

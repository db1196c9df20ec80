"""How a merge method sees a tensor: piece by piece, in passes, so that no tensor has to be in memory as a whole.

A method is a generator. It yields one `Pass` after another; each is called on every piece of the tensor, on any thread
and in any order, and the generator is sent what the pass gave. At the end it returns the function that makes the
values of a piece. What needs nothing but the values at hand yields no pass at all:

    def linear(tensor, parameters):
        return lambda inputs, out: ...
        yield

`merge_arrays` runs a method over arrays in memory; `schedule` runs it over files.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]

Rescale = Literal["l1", "density"]

PIECE_VALUES = 1 << 17
"""Values of each model that a thread works on at a time: those of three models stay in its second-level cache."""


@dataclass(frozen=True)
class Parameters:
    """What a method is told about one tensor. Tuples have an entry for each model, in order; the base is none of them.

    Attributes:
        weight: factors.
        density: share of the entries of a change that are kept.
        gamma: breadcrumbs: share of the largest entries that are dropped.
        epsilon: della: half the range of the probabilities.
        scale: passthrough: factors.
        lambda_: factor of the merged change.
        normalize: see the methods.
        rescale: what makes up for dropped entries: the L1 norm of each change is restored, or it is divided by its
            density.
        t: slerp and nearswap: the way from the first model to the second.
        select_topk: sce: share of the positions that are kept.
        flatten, row_wise: nuslerp: what counts as a vector.
        eps: multislerp: smaller numbers are zero.
        seed: of random masks.
    """

    weight: tuple[float, ...]
    density: tuple[float, ...]
    gamma: tuple[float, ...]
    epsilon: tuple[float, ...]
    scale: tuple[float, ...]
    lambda_: float = 1.0
    normalize: bool = False
    rescale: Rescale | None = None
    t: float = 0.5
    select_topk: float = 1.0
    flatten: bool = True
    row_wise: bool = False
    eps: float = 1e-8
    seed: int = 0


@dataclass(frozen=True)
class TensorFacts:
    """The tensor that is merged: its GGUF name, which keys random masks, and its shape [R, C] (a vector is one row)."""

    name: str
    shape: tuple[int, int]
    n_models: int
    has_base: bool

    @property
    def n_values(self) -> int:
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class Piece:
    """Some whole rows of a tensor. `number` counts its pieces; how it is cut does not depend on threads."""

    number: int
    first_row: int
    n_rows: int


@dataclass(frozen=True)
class Inputs:
    """The values of one piece. Nobody changes them but the function that was given them, and nobody keeps them.

    Attributes:
        piece: which rows these are.
        models: float32 [N, r, C], C-contiguous.
        base: float32 [r, C], C-contiguous; None where there is no base model.
    """

    piece: Piece
    models: Floats
    base: Floats | None


@dataclass(frozen=True)
class Pass:
    """One look at every piece.

    Attributes:
        look: what is called on each piece; it may not depend on others.
        fold: joins two results, exactly (whole numbers), so that the order does not matter; the generator is sent the
            whole. None: it is sent the list of all results in the order of the pieces.
    """

    look: Callable[[Inputs], Any]
    fold: Callable[[Any, Any], Any] | None = None


Combine = Callable[[Inputs, Floats], None]
"""Writes the merged values of a piece, float32 [r, C]."""


@runtime_checkable
class SparseCombine(Protocol):
    """What makes the values where a part of each change is dropped; it can say how much is kept."""

    def __call__(self, inputs: Inputs, out: Floats, /) -> None: ...

    def n_kept(self, inputs: Inputs) -> tuple[int, ...]:
        """How many entries of each model's change, of those that are not zero, are kept in a piece."""
        ...


Passes = Generator[Pass, Any, Combine]


class Method(Protocol):
    """Begins the merge of one tensor."""

    def __call__(self, tensor: TensorFacts, parameters: Parameters, /) -> Passes: ...


def cut(n_rows: int, n_columns: int, piece_values: int) -> list[Piece]:
    """Whole rows of about so many values, the last piece with what is left."""
    height = max(1, piece_values // max(n_columns, 1))
    starts = range(0, n_rows, height)
    return [Piece(number, start, min(height, n_rows - start)) for number, start in enumerate(starts)]


def merge_arrays(
    method: Method, models: Sequence[Floats], parameters: Parameters, *, base: Floats | None = None, name: str = ""
) -> Floats:
    """The merge of one tensor that is in memory.

    Args:
        method: see `registry`.
        models: float32 arrays of one shape.
        parameters: for these models.
        base: of the same shape, where the method works on changes.
        name: of the tensor, which keys random masks.

    Raises:
        ValueError: shapes differ.
    """
    every = [*models] if base is None else [*models, base]
    shapes = {array.shape for array in every}
    if len(shapes) != 1:
        raise ValueError(f"tensors of shapes {sorted(shapes)} cannot be merged")
    shape = models[0].shape
    matrix = (-1, shape[-1]) if len(shape) > 1 else (1, models[0].size)
    views = [array.reshape(matrix) for array in every]
    facts = TensorFacts(name, views[0].shape, len(models), base is not None)
    pieces = cut(*facts.shape, PIECE_VALUES)

    def inputs(piece: Piece) -> Inputs:
        rows = np.stack([view[_rows(piece)] for view in views], dtype=np.float32)
        return Inputs(piece, rows[: len(models)], None if base is None else rows[-1])

    combine = _run(method(facts, parameters), pieces, inputs)
    out = np.empty(facts.shape, np.float32)
    for piece in pieces:
        combine(inputs(piece), out[_rows(piece)])
    return out.reshape(shape)


def _rows(piece: Piece) -> slice:
    return slice(piece.first_row, piece.first_row + piece.n_rows)


def _run(passes: Passes, pieces: Sequence[Piece], inputs: Callable[[Piece], Inputs]) -> Combine:
    try:
        one = next(passes)
        while True:
            results = [one.look(inputs(piece)) for piece in pieces]
            one = passes.send(results if one.fold is None else reduce(one.fold, results))
    except StopIteration as end:
        combine: Combine = end.value
        return combine

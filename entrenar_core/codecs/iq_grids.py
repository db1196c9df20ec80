"""The tables behind the IQ types: grids of 4 or 8 small magnitudes, and the signs that go with them.

The grids come from the `gguf` package, at the first decode: importing it takes longer than opening a model. A row of a
grid is kept as one word of 4 or 8 int8 values in memory order, so that a kernel copies it in one move.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import FormatError

Words = npt.NDArray[Any]


@cache
def grid_words(type_name: str, factor: int = 1) -> Words:
    """The grid of a type, times `factor`: uint64 [n] of eight int8 values each, or uint32 [n] of four.

    Raises:
        FormatError: the installed gguf package has no such grid.
    """
    from gguf import quants

    quant: Any = getattr(quants, type_name, None)
    if hasattr(quant, "init_grid"):
        quant.init_grid()
    grid = getattr(quant, "grid", None)
    if grid is None:
        raise FormatError(f"the installed gguf package has no grid for {type_name}", hint="pip install --upgrade gguf")
    rows = (grid.reshape(-1, grid.shape[-1]) * factor).astype(np.int8)
    return _frozen(rows.view({4: np.uint32, 8: np.uint64}[rows.shape[1]])[:, 0])


@cache
def sign_masks() -> Words:
    """uint64 [256]: for each byte eight int8 values, -1 where its bit is set and 0 elsewhere, the lowest bit first."""
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
    return _frozen((-bits.astype(np.int8)).view(np.uint64)[:, 0])


@cache
def even_sign_masks() -> Words:
    """uint64 [128]: `sign_masks` of seven bits and an eighth that makes the number of signs even."""
    seven = np.arange(128)
    parity = np.array([int(value).bit_count() & 1 for value in seven])
    return _frozen(sign_masks()[seven | parity << 7])


@cache
def shift_words() -> Words:
    """uint64 [2]: eight int8 values of +1, and eight of -1."""
    return _frozen(np.repeat(np.array([[1], [-1]], np.int8), 8, axis=1).view(np.uint64)[:, 0])


def _frozen(words: Words) -> Words:
    words = np.ascontiguousarray(words)
    words.setflags(write=False)
    return words

"""What a training step eats: one rectangle of token ids with its targets, positions and document borders.

Labels are already shifted: position t of a row sees ``tokens[b, :t+1]`` of its own document and is asked for
``labels[b, t]``. A document is a stretch of equal ``starts``; attention must not cross from one to the next.

A model with a head is asked once a document, at its last position: for a class, which is the label there, or for a
number, which is in `values`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

IGNORE = -100
"""The label of a position that is not trained: prompt, padding."""

Int32Array = npt.NDArray[np.int32]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Batch:
    """One batch of B rows and T positions.

    Attributes:
        tokens: int32 [B, T], the inputs; padding holds the loader's pad id.
        labels: int32 [B, T], the target of each position, or `IGNORE`.
        positions: int32 [B, T], the index inside the document, restarting at 0; 0 on padding.
        starts: int32 [B, T], the index in the row of the first position of the document; padding starts itself.
        n_tokens: positions that are not padding.
        n_supervised: positions whose label is not `IGNORE`.
        values: float64 [B, T], for regression: the target where the label is not `IGNORE`, 0 elsewhere.
        places: int64 [B, T], the index of the position's target among the tokens of the whole data set where the label
            is not `IGNORE`, -1 elsewhere; None where there is no whole: data that are streamed, or made up.
    """

    tokens: Int32Array
    labels: Int32Array
    positions: Int32Array
    starts: Int32Array
    n_tokens: int
    n_supervised: int
    values: Float64Array | None = None
    places: Int64Array | None = None

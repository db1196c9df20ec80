"""A value that its type cannot hold: which one, and where it stands."""

from __future__ import annotations

import numpy as np

from entrenar_core.codecs.base import Codec, Floats
from entrenar_core.errors import FormatError


class UnfitValueError(FormatError):
    """A value that cannot be packed, at a row and column of the matrix that was given.

    Who encodes a matrix piece by piece moves the row to where it is in the whole (`moved_by`).
    """

    def __init__(self, reason: str, row: int, column: int) -> None:
        super().__init__(
            f"{reason} (row {row}, column {column})",
            hint="write this tensor as F32, or look for the step at which its values blew up",
        )
        self.reason = reason
        self.row = row
        self.column = column

    def moved_by(self, n_rows: int) -> UnfitValueError:
        """The same error of a matrix in which `n_rows` rows come before."""
        return UnfitValueError(self.reason, self.row + n_rows, self.column)


def unfit_block(codec: Codec, rows: Floats, block: int) -> UnfitValueError:
    """The error for a block of rows float32 [R, C], counted through all of them: it names the worst value.

    That is the first one that is not finite, else the first of the largest.
    """
    row, block_in_row = divmod(block, rows.shape[1] // codec.block_size)
    start = block_in_row * codec.block_size
    values = rows[row, start : start + codec.block_size]
    lost = ~np.isfinite(values)
    worst = int(lost.argmax() if lost.any() else np.abs(values).argmax())
    reason = f"{float(values[worst]):g} does not fit a block of {codec.type_name}"
    return UnfitValueError(reason, row, start + worst)

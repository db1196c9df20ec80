"""What the host knows of who sees whom in an attention: documents side by side in the rows of a batch.

`lower` lies on the device, which cannot be asked for it without waiting. A library that attends to each document by
itself has to know where they are when it is called, and a blocked attention which keys a block of queries may skip.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Documents:
    """Stretches of tokens that see each other and nobody else; together they are all tokens of [B, T].

    Attributes:
        starts: int64 [n], the first token of each among the B·T, ascending.
        lengths: int64 [n], how many tokens each has.
    """

    starts: Int64Array
    lengths: Int64Array


class HostLower:
    """The first key that each query sees, integers [B, T] on the host, of which the `lower` of an attention is made.

    Nobody may change the values. Two are equal only if they are the same.
    """

    def __init__(self, values: npt.NDArray[np.integer]) -> None:
        self.values = values

    @cached_property
    def documents(self) -> Documents | None:
        """The documents, if the keys of the attention are its queries; None if not all queries see a document up to
        themselves: where a window slides over it, or tokens came before."""
        batch, time = self.values.shape
        is_start = self.values == np.arange(time)
        goes_on = np.zeros_like(is_start)
        goes_on[:, 1:] = self.values[:, 1:] == self.values[:, :-1]
        if not (is_start | goes_on).all():
            return None
        starts = np.flatnonzero(is_start).astype(np.int64)
        return Documents(starts, np.diff(starts, append=batch * time))

    def first_key(self, first_query: int, stop_query: int) -> int:
        """The first key that any of the queries first_query ... stop_query - 1 of any row sees."""
        return int(self.values[:, first_query:stop_query].min())

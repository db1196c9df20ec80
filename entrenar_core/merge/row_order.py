"""Where the rows of attn_q and attn_k stand in Hugging Face's order: those that RoPE turns together, half a head apart.

Row 2i + j of a head in GGUF (i < E/2; j: which of a pair) is row j·E/2 + i in Hugging Face. So a stretch of rows in
GGUF's order is, for each head and each j, rows that lie side by side there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Span:
    """`count` rows from `first` on in Hugging Face's order; in a piece in GGUF's order they are every other row from
    `start` on."""

    first: int
    count: int
    start: int

    @property
    def places(self) -> slice:
        """Of these rows in the piece."""
        return slice(self.start, self.start + 2 * self.count, 2)


@dataclass(frozen=True, slots=True)
class RotaryRows:
    """The rows of a projection into `n_heads` heads of an even size."""

    n_rows: int
    n_heads: int

    def spans(self, first_row: int, count: int) -> Iterator[Span]:
        """The rows from `first_row` on in GGUF's order."""
        size = self.n_rows // self.n_heads
        for head in range(first_row // size, -(-(first_row + count) // size)):
            start = head * size
            first, last = max(first_row, start) - start, min(first_row + count, start + size) - start
            for which in (0, 1):
                low, high = (first - which + 1) // 2, (last - which + 1) // 2
                if low < high:
                    place = start + 2 * low + which - first_row
                    yield Span(start + which * (size // 2) + low, high - low, place)

    def numbers(self, first_row: int, count: int) -> list[int]:
        """The numbers that these rows have in Hugging Face's order."""
        numbers = [0] * count
        for span in self.spans(first_row, count):
            numbers[span.places] = range(span.first, span.first + span.count)
        return numbers

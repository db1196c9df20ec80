"""A sample of a source: rows from all over its files and row groups, the same ones each time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate

import pyarrow as pa

from entrenar_core.data.formats.base import DataFile

SAMPLE_BYTES = 1 << 26
"""Memory that a sample may take, about."""

MAX_PARTS = 64
"""Parts that a sample looks into; opening one has its price."""

SPREAD_BYTES = 1 << 26
"""A part up to this size is read as a whole, and rows are taken from all over it; a larger one gives its first rows."""

ReadPart = Callable[[DataFile, int, pa.Schema], Iterator[pa.RecordBatch]]


def sample_of(
    files: Sequence[DataFile], schema: pa.Schema, max_rows: int, max_bytes: int, read_part: ReadPart
) -> pa.Table:
    """At most `max_rows` rows in about `max_bytes`, in the order of the files; all rows when there are no more."""
    parts = [(file, index) for file in files for index, part in enumerate(file.parts) if part.n_rows]
    sizes = [file.parts[index].n_rows for file, index in parts]
    whole = sum(sizes) <= max_rows
    chosen = range(len(parts)) if whole else evenly(len(parts), min(MAX_PARTS, max_rows))
    shares = _shares([sizes[place] for place in chosen], max_rows)
    batches: list[pa.RecordBatch] = []
    for place, share in zip(chosen, shares, strict=True):
        file, index = parts[place]
        is_spread = file.parts[index].n_bytes <= SPREAD_BYTES
        wanted = evenly(sizes[place], share) if is_spread else range(share)
        batches.extend(_rows(read_part(file, index, schema), wanted, max_bytes // len(chosen)))
    return pa.Table.from_batches(batches, schema=schema)


def evenly(count: int, share: int) -> Sequence[int]:
    """`share` numbers below `count` at even distances, or all when there are no more."""
    return range(count) if share >= count else [place * count // share for place in range(share)]


def _shares(sizes: Sequence[int], max_rows: int) -> list[int]:
    """Rows to take from parts of these sizes: in proportion, `max_rows` in all, or all rows."""
    total = sum(sizes)
    ends = [min(total, max_rows) * end // total for end in accumulate(sizes)]
    return [end - start for start, end in zip([0, *ends], ends, strict=False)]


def _rows(batches: Iterator[pa.RecordBatch], wanted: Sequence[int], max_bytes: int) -> Iterator[pa.RecordBatch]:
    """The wanted rows, which ascend, until they take too much memory."""
    first, place, taken_bytes = 0, 0, 0
    for batch in batches:
        here: list[int] = []
        while place < len(wanted) and wanted[place] < first + batch.num_rows:
            here.append(wanted[place] - first)
            place += 1
        first += batch.num_rows
        if here:
            taken = batch.take(pa.array(here, pa.int64()))
            taken_bytes += taken.nbytes
            yield taken
        if place == len(wanted) or taken_bytes > max_bytes:
            return

"""Which entries of a tensor are among the k largest, exactly, without sorting it or holding it in memory.

Entries are ordered by magnitude, and equal ones by their place. The first pass counts magnitudes by their upper bits;
the second looks at the one bin where the k-th is, and at how many entries of each magnitude every piece has there. So
the border is known to the bit, and so is the piece in which the last of its equals lies.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.merge.passes import Floats, Inputs, Pass, Piece
from entrenar_core.stored_kernels import StoredKernel

Counts = npt.NDArray[np.int64]

_KERNELS = "entrenar_core.merge.cutoff_kernels"
_count_magnitudes = StoredKernel(_KERNELS, "count_magnitudes")
_collect_codes = StoredKernel(_KERNELS, "collect_codes", "int64")

_BINS = 1 << 15
_LOWER = (1 << 16) - 1
_CODES = 1024
_MOST_COUNTED = 1 << 30
_TABLES = 4
_FEW_FOUND = 1 << 12
_INFINITY = np.float32(np.inf).view(np.int32)
_FEW_CODES = 512

Codes = tuple[npt.NDArray[np.uint16], Counts]
"""The lower halves of the codes of a bin, and how many entries have each; a few may stand there several times."""

Statistic = Callable[[Inputs], tuple[Floats, Floats]]
"""What is ordered: values float32 [K, n] of a piece, and what is subtracted from them, [n]."""


@dataclass(frozen=True)
class Cutoff:
    """Tells the first k entries from the others.

    Attributes:
        magnitude: of entry k.
        n_pieces: in so many pieces all entries of that magnitude are among the first k,
        n_entries: and so many in the next; none in the others.
    """

    magnitude: np.float32
    n_pieces: int
    n_entries: int

    def steps(self, piece: Piece, magnitudes: Callable[[], Floats]) -> list[tuple[int, np.float32]]:
        """From which element of a piece on which magnitudes are among the first k: this one and those above.

        Args:
            piece: any.
            magnitudes: gives those of all its elements, which matter in one piece only.
        """
        if piece.number < self.n_pieces:
            return [(0, self.magnitude)]
        above = min(self.magnitude.view(np.int32) + np.int32(1), _INFINITY).view(np.float32)
        if piece.number > self.n_pieces or not self.n_entries:
            return [(0, above)]
        last = np.flatnonzero(magnitudes() == self.magnitude)[self.n_entries - 1]
        return [(0, self.magnitude), (int(last) + 1, above)]

    def mask(self, piece: Piece, magnitudes: Floats) -> npt.NDArray[np.bool_]:
        """Which elements of a piece are among the first k, from the magnitudes of all, [n]."""
        among = np.empty(magnitudes.shape, np.bool_)
        for start, lowest in self.steps(piece, lambda: magnitudes):
            among[start:] = magnitudes[start:] >= lowest
        return among


NOTHING = Cutoff(np.float32(np.inf), 0, 0)
ALL_BUT_ZEROS = Cutoff(np.nextafter(np.float32(0), np.float32(1)), np.iinfo(np.int64).max, 0)


def changes_of_models(inputs: Inputs) -> tuple[Floats, Floats]:
    """The statistic of methods that order the changes of each model by magnitude."""
    assert inputs.base is not None
    return inputs.models.reshape(inputs.models.shape[0], -1), inputs.base.reshape(-1)


def find_cutoffs(
    statistic: Statistic, ranks: Callable[[Counts], Sequence[Sequence[int]]]
) -> Generator[Pass, Any, list[list[Cutoff]]]:
    """At most two passes. A cutoff for each rank asked for.

    Args:
        statistic: see there.
        ranks: is given how many of each of the K rows of values are not zero, and says which k are wanted of each.
            Zeros are never among the first k.
    """
    counter = _Counter(statistic)
    yield Pass(counter.look, _nothing)
    counts = counter.counts()
    wanted = ranks(counts[:, 1:].sum(axis=1))
    borders = [[_border(of_row, k) for k in all_k] for of_row, all_k in zip(counts, wanted, strict=True)]
    bins = _bins(borders)
    seen = {}
    if bins:
        found = _Found()
        pieces = yield Pass(
            lambda inputs: [
                _collected(statistic, found.room(inputs.models[0].size + 1), inputs, row, bin_) for row, bin_ in bins
            ]
        )
        seen = dict(zip(bins, zip(*pieces, strict=True), strict=True))
    return [[_cutoff(one, row, seen) for one in of_row] for row, of_row in enumerate(borders)]


class _Counter:
    """How many entries are in each bin. Each thread counts into tables of its own, which stay from piece to piece."""

    def __init__(self, statistic: Statistic) -> None:
        self._statistic = statistic
        self._mine = threading.local()
        self._all: list[_Tables] = []

    def look(self, inputs: Inputs) -> None:
        """Count the entries of a piece."""
        values, base = self._statistic(inputs)
        tables: _Tables | None = getattr(self._mine, "tables", None)
        if tables is None:
            tables = self._mine.tables = _Tables(len(values))
            self._all.append(tables)
        tables.count(values, base)

    def counts(self) -> Counts:
        """Of all pieces and threads, int64 [K, 32768]."""
        return np.sum([tables.counts() for tables in self._all], axis=0)


class _Tables:
    """The counts of one thread: in 32 bits, which fit the second-level cache, for as long as these suffice."""

    def __init__(self, n_rows: int) -> None:
        self._tables = np.zeros((_TABLES * n_rows, _BINS), np.int32)
        self._codes = np.empty(_CODES, np.uint32)
        self._counted = 0
        self._total: Counts = np.zeros((n_rows, _BINS), np.int64)

    def count(self, values: Floats, base: Floats) -> None:
        if self._counted + base.size > _MOST_COUNTED:
            self._total, self._counted = self.counts(), 0
            self._tables[:] = 0
        _count_magnitudes(values, base, self._tables, self._codes)
        self._counted += base.size

    def counts(self) -> Counts:
        return self._total + self._tables.reshape(-1, _TABLES, _BINS).sum(axis=1, dtype=np.int64)


def _nothing(one: None, other: None) -> None:
    """Joins the results of a pass that keeps what it finds."""
    del one, other


@dataclass(frozen=True)
class _Border:
    """Entry k is in a bin, of which so many are among the first k."""

    bin: int
    n_entries: int


def _border(counts: Counts, k: int) -> Cutoff | _Border:
    """Where entry k is, or the cutoff itself where none or all are among the first k."""
    if k <= 0:
        return NOTHING
    if k >= counts[1:].sum():
        return ALL_BUT_ZEROS
    from_above = np.cumsum(counts[::-1])
    steps = int(np.searchsorted(from_above, k))
    bin_ = _BINS - 1 - steps
    return _Border(bin_, k - int(from_above[steps] - counts[bin_]))


def _bins(borders: Sequence[Sequence[Cutoff | _Border]]) -> list[tuple[int, int]]:
    """The rows and bins that have to be looked into."""
    return sorted({(row, one.bin) for row, some in enumerate(borders) for one in some if isinstance(one, _Border)})


class _Found(threading.local):
    """Memory of each thread for the codes of a piece."""

    def __init__(self) -> None:
        self._codes = np.empty(0, np.uint16)

    def room(self, n_codes: int) -> npt.NDArray[np.uint16]:
        if self._codes.size < n_codes:
            self._codes = np.empty(n_codes, np.uint16)
        return self._codes[:n_codes]


def _collected(statistic: Statistic, found: npt.NDArray[np.uint16], inputs: Inputs, row: int, bin_: int) -> Codes:
    """What a piece has in a bin. `found` is scratch of one entry more than the piece has."""
    values, base = statistic(inputs)
    count = _collect_codes(values[row], base, np.array([bin_], np.int32), found, np.empty(_FEW_CODES, np.uint32))
    if count <= _FEW_FOUND:
        return found[:count].copy(), np.broadcast_to(np.int64(1), count)
    return np.unique(found[:count], return_counts=True)


def _cutoff(border: Cutoff | _Border, row: int, seen: Mapping[tuple[int, int], Sequence[Codes]]) -> Cutoff:
    """The cutoff at a border, from the codes that each piece has in its bin."""
    if isinstance(border, Cutoff):
        return border
    pieces = seen[row, border.bin]
    codes = np.concatenate([each for each, _ in pieces])
    counts = np.concatenate([each for _, each in pieces])
    from_above = np.cumsum(np.bincount(codes, counts, _LOWER + 1)[::-1].astype(np.int64))
    steps = int(np.searchsorted(from_above, border.n_entries))
    code = _LOWER - steps
    equals = border.n_entries - (int(from_above[steps - 1]) if steps else 0)
    of_pieces = np.cumsum([counts[codes == code].sum() for codes, counts in pieces])
    n_pieces = int(np.searchsorted(of_pieces, equals, side="right"))
    before = int(of_pieces[n_pieces - 1]) if n_pieces else 0
    bits = np.int32((border.bin << 16) + code - _LOWER)
    return Cutoff(bits.view(np.float32), n_pieces, equals - before)

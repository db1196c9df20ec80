"""Cuts the tensors of a plan into pieces of whole rows, so that the buffers of all workers stay within a budget."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME, is_few_bits
from entrenar_core.codecs.registry import DECODABLE
from entrenar_core.errors import ConfigError
from entrenar_core.quant.plan import PlannedTensor

PIECE_VALUES = 1 << 19
"""Values of a piece where the budget allows it: large enough for the work around a piece to cost nothing, small enough
for values and bytes to stay in the caches of a core."""

_FLOAT_BYTES = 4


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows ``start`` to ``stop`` of tensor number `tensor` of the plan; `slab`: which matrix of a stack they are of."""

    tensor: int
    start: int
    stop: int
    slab: int = 0


@dataclass(frozen=True)
class BufferSizes:
    """What one worker needs for any piece: bytes read, values, bytes written; values decoded again for a report."""

    raw: int
    values: int
    packed: int
    rounded: int

    @property
    def n_bytes(self) -> int:
        return self.raw + _FLOAT_BYTES * (self.values + self.rounded) + self.packed


def buffer_sizes(plan: Sequence[PlannedTensor], piece_values: int, *, measures: bool) -> BufferSizes:
    """The largest piece of each kind, when pieces have up to `piece_values` values (but at least a row)."""
    raw = values = packed = 0
    for one in plan:
        rows = rows_of_piece(one, piece_values)
        raw = max(raw, rows * _row_bytes(one.info.type_name, one.n_columns))
        if not one.is_copied or holds_blocks(one):
            values = max(values, rows * one.n_columns)
        if not one.is_copied:
            packed = max(packed, rows * _row_bytes(one.type_name, one.n_columns))
    return BufferSizes(raw, values, packed, values if measures else 0)


def holds_blocks(tensor: PlannedTensor) -> bool:
    """Whether values of the source share scales in blocks that can be decoded; a copy of them is looked into."""
    type_name = tensor.info.type_name
    return type_name in DECODABLE and is_few_bits(type_name)


def rows_of_piece(tensor: PlannedTensor, piece_values: int) -> int:
    """Rows that are done at a time; those of different matrices of a stack never together."""
    return min(max(1, piece_values // tensor.n_columns), _slab_rows(tensor))


def piece_size(plan: Sequence[PlannedTensor], n_workers: int, budget: int, *, measures: bool) -> tuple[int, int]:
    """Values of a piece, and workers, so that all buffers together take at most `budget` bytes.

    Pieces become smaller first, then workers fewer.

    Raises:
        ConfigError: the longest row alone takes more.
    """
    values = PIECE_VALUES
    while values > 1 and n_workers * buffer_sizes(plan, values, measures=measures).n_bytes > budget:
        values //= 2
    needed = buffer_sizes(plan, values, measures=measures).n_bytes
    if needed > budget:
        longest = max(plan, key=lambda one: one.n_columns)
        missing = -(-(needed - budget) // 2**20)
        raise ConfigError(
            f"a row of {longest.name} ({longest.n_columns} values) does not fit: {missing} MiB more are needed",
            where="run.memory",
            hint="raise --memory",
        )
    return values, max(1, min(n_workers, budget // max(needed, 1)))


class Pieces:
    """All pieces of a plan in the order of the file, made when they are asked for: a large model has very many."""

    def __init__(self, plan: Sequence[PlannedTensor], piece_values: int) -> None:
        self._plan = plan
        self._steps = [rows_of_piece(one, piece_values) for one in plan]
        counts = [
            one.n_rows // _slab_rows(one) * -(-_slab_rows(one) // step)
            for one, step in zip(plan, self._steps, strict=True)
        ]
        self._starts = [0, *itertools.accumulate(counts)]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, number: int) -> Piece:
        if not 0 <= number < len(self):
            raise IndexError(number)
        tensor = bisect.bisect_right(self._starts, number) - 1
        step, slab_rows = self._steps[tensor], _slab_rows(self._plan[tensor])
        slab, part = divmod(number - self._starts[tensor], -(-slab_rows // step))
        start = slab * slab_rows + part * step
        return Piece(tensor, start, min(start + step, (slab + 1) * slab_rows), slab)

    def of_tensor(self, tensor: int) -> range:
        """The numbers of the pieces of a tensor."""
        return range(self._starts[tensor], self._starts[tensor + 1])


def _slab_rows(tensor: PlannedTensor) -> int:
    """Rows of one matrix: of a stack of experts [..., out, in] those of a single one."""
    shape = tensor.info.shape
    return math.prod(shape[-2:-1])


def _row_bytes(type_name: str, n_columns: int) -> int:
    return TYPE_BY_NAME[type_name].row_bytes(n_columns)

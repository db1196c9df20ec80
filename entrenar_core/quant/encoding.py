"""How a tensor is encoded, and the encoding itself: pieces of rows on several threads, in bounded memory.

Each piece is decoded again where its error is asked for, so that what is reported is what the file holds. A scale that
a whole tensor shares is found in passes over it before the first piece is encoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from entrenar_core.codecs.base import Bytes, Codec, Floats
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.refusal import UnfitValueError
from entrenar_core.errors import TrainingError
from entrenar_core.gguf.tensor_info import packed_shape
from entrenar_core.quant.error_sums import ErrorSums, added_up, measure
from entrenar_core.quant.granularity import EachPiece, granular_codec, tensor_encoder
from entrenar_core.threads import Threads

PIECE_VALUES = 1 << 18
"""Values that a thread encodes at a time."""

PIECES_PER_THREAD = 4
"""Pieces of a window; its bytes are handed on before the next one is begun."""

Result = TypeVar("Result")

Rows = Callable[[slice], Floats]
"""Some rows of a matrix, float32, decoded when they are asked for."""


@dataclass(frozen=True)
class Encoding:
    """How one tensor is written.

    type_name: of its blocks. importance: float32 [row], what the error of each column counts. granularity: block, or
    per_channel or per_tensor, where blocks share a scale (`quant.granularity`); percentile: share of the values in its
    range. encoder: one that is ready, in place of all this.
    """

    type_name: str
    importance: Floats | None = None
    granularity: str = "block"
    percentile: float | None = None
    encoder: Codec | None = None


Encodings = Mapping[str, Encoding]
"""By tensor name."""


def plain_encodings(types: Mapping[str, str]) -> dict[str, Encoding]:
    """Types alone, without importance."""
    return {name: Encoding(type_name) for name, type_name in types.items()}


@dataclass
class TensorEncoding:
    """One tensor, seen as a matrix [rows, row], on its way into a file.

    Attributes:
        shape: of the matrix; a vector has one row.
        source: its rows, float32; asked for piece by piece, on several threads.
        encoding: how it is written.
        start: rows of what training started from, for the size of the change; None: not known.
        is_measured: whether errors are summed up.
        sums: of the errors, complete once `pieces` is exhausted.
    """

    shape: tuple[int, int]
    source: Rows
    encoding: Encoding
    start: Rows | None = None
    is_measured: bool = True
    sums: ErrorSums = field(default_factory=ErrorSums)

    def pieces(self, threads: Threads) -> Iterator[Bytes]:
        """The packed bytes in order. An array is valid until the next one is asked for.

        Raises:
            TrainingError: a value is not finite.
            FormatError: the values do not fit the type.
        """
        n_rows, row = self.shape
        encoder = self.encoder(threads)
        height = max(1, PIECE_VALUES // row)
        window = min(height * threads.count * PIECES_PER_THREAD, n_rows)
        packed = np.empty(packed_shape((window, row), TYPE_BY_NAME[self.encoding.type_name]), np.uint8)
        for first in range(0, n_rows, window):
            target = packed[: min(window, n_rows - first)]
            parts = [slice(top, min(top + height, len(target))) for top in range(0, len(target), height)]

            def encode(part: slice, first: int = first, target: Bytes = target) -> ErrorSums:
                return self._encode(encoder, slice(first + part.start, first + part.stop), target[part])

            self.sums += added_up(_side_by_side(threads, encode, parts))
            yield target

    def encoder(self, threads: Threads) -> Codec:
        """The codec that packs rows; for a scale of the whole tensor, that scale is looked for first."""
        how = self.encoding
        if how.encoder is not None:
            return how.encoder
        if how.granularity == "per_tensor":
            return tensor_encoder(how.type_name, self._each_piece(threads), how.importance, how.percentile)
        return granular_codec(how.type_name, how.granularity, how.percentile)

    def _each_piece(self, threads: Threads) -> EachPiece[Any]:
        height = max(1, PIECE_VALUES // self.shape[1])
        parts = [slice(top, min(top + height, self.shape[0])) for top in range(0, self.shape[0], height)]
        return lambda work: _side_by_side(threads, lambda rows: work(self._values(rows)), parts)

    def _values(self, rows: slice) -> Floats:
        values: Floats = np.ascontiguousarray(self.source(rows))
        if not np.isfinite(values).all():
            raise TrainingError("the values are not finite; nothing is written")
        return values

    def _encode(self, encoder: Codec, rows: slice, out: Bytes) -> ErrorSums:
        values = self._values(rows)
        try:
            encoder.encode(values, self.encoding.importance, out)
        except UnfitValueError as error:
            raise error.moved_by(rows.start) from error
        if not self.is_measured:
            return ErrorSums()
        return measure(values, encoder.decode(out), start=None if self.start is None else self.start(rows))


def _side_by_side(threads: Threads, work: Callable[[slice], Result], parts: Sequence[slice]) -> list[Result]:
    """The results of `work` on all parts, in their order; of several errors, the first one is raised."""
    results: dict[int, Result] = {}

    def run(task: int, thread: int) -> None:
        del thread
        results[task] = work(parts[task])

    threads.run_tasks(run, len(parts))
    return [results[task] for task in range(len(parts))]

"""Encoders for tensors whose rows, or which as a whole, share one scale (`granularity`)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from entrenar_core.codecs.base import Codec, Floats
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.quant.convert import Buffers, Importance, refusal
from entrenar_core.quant.granularity import SHARED_TYPES, granular_codec, tensor_encoder
from entrenar_core.quant.pieces import Pieces, buffer_sizes
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.source import RowSource
from entrenar_core.quant.workers import run_pieces

Result = TypeVar("Result")


@dataclass(frozen=True)
class ShareOptions:
    """granularity: block, per_channel or per_tensor. percentile: share of the weights in a range; None: all."""

    granularity: str
    percentile: float | None = None


def shared_codecs(
    plan: Sequence[PlannedTensor],
    options: ShareOptions,
    source: RowSource,
    importance: Importance,
    piece_values: int,
    n_workers: int,
) -> dict[str, Codec]:
    """The encoders of the tensors that can share scales, by name; the others have blocks with scales of their own.

    Args:
        plan: all tensors.
        options: what shares a scale. For per_tensor every tensor is read once or twice beforehand.
        source: where they are read.
        importance: see `convert.Importance`; the matrices of a stack share a scale, and the mean of theirs counts.
        piece_values, n_workers: see `convert.Conversion`.

    Raises:
        FormatError: a value is not finite or too large.
    """
    shared = [one for one in plan if not one.is_copied and one.type_name in SHARED_TYPES]
    if options.granularity == "block":
        return {}
    if options.granularity == "per_channel":
        return {one.name: granular_codec(one.type_name, options.granularity, options.percentile) for one in shared}
    found: dict[str, Codec] = {}
    for one in shared:
        reader = _Reader(one, source, piece_values, n_workers)
        weights = importance.get(one.name)
        columns = weights if weights is None or weights.ndim == 1 else weights.mean(axis=0)
        found[one.name] = tensor_encoder(one.type_name, reader.each_piece, columns, options.percentile)
    return found


class _Reader:
    """Goes over the values of one tensor, on several threads, in buffers that are used again."""

    def __init__(self, tensor: PlannedTensor, source: RowSource, piece_values: int, n_workers: int) -> None:
        self._tensor = tensor
        self._source = source
        self._pieces = Pieces([tensor], piece_values)
        self._buffers = [Buffers(buffer_sizes([tensor], piece_values, measures=False)) for _ in range(n_workers)]

    def each_piece(self, function: Callable[[Floats], Result]) -> Iterable[Result]:
        """What `function` gives for each piece float32 [rows, columns], in the order of the rows."""
        found: dict[int, Result] = {}

        def work(number: int, worker: int) -> None:
            piece, info = self._pieces[number], self._tensor.info
            values = self._values(piece.start, piece.stop, worker)
            try:
                found[number] = function(values)
            except FormatError as error:
                raise refusal(error, values, range(piece.start, piece.stop), self._source.where(info)) from error

        run_pieces(work, len(self._pieces), len(self._buffers))
        return [found[number] for number in range(len(self._pieces))]

    def _values(self, start: int, stop: int, worker: int) -> Floats:
        info, columns, buffers = self._tensor.info, self._tensor.n_columns, self._buffers[worker]
        row_bytes = info.n_bytes // self._tensor.n_rows
        raw = buffers.raw(stop - start, row_bytes)
        self._source.read(info, start * row_bytes, raw.reshape(-1))
        return codec_for(info.type_name).decode(raw, buffers.values(stop - start, columns))

"""Writes the tensors of a plan: each worker reads a piece of rows, decodes, encodes and writes it at its place.

All pieces have a place in the output before they are computed, so workers need not wait for one another; while one
reads or writes, the others compute. A worker's buffers are used again from piece to piece.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from entrenar_core.codecs.base import Bytes, Codec, Floats
from entrenar_core.codecs.finite import POSITIVE_INFINITY, all_finite, all_finite_packed, non_finite_value
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.refusal import UnfitValueError
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.gguf.writer import write_fully
from entrenar_core.quant.error_sums import ErrorSums, added_up, measure
from entrenar_core.quant.pieces import BufferSizes, Piece, Pieces, buffer_sizes, holds_blocks
from entrenar_core.quant.plan import PlannedTensor
from entrenar_core.quant.source import RowSource
from entrenar_core.quant.workers import run_pieces

Importance = Mapping[str, Floats]
"""By tensor name, float32 [columns], or [experts, columns] for a stack of matrices."""


@dataclass
class Progress:
    """How far the work is; read by another thread than those that change it."""

    source_bytes: int = 0
    tensors: int = 0


@dataclass(frozen=True)
class Conversion:
    """What is converted and how.

    Attributes:
        plan: the tensors.
        targets: their places in the output, in the same order.
        piece_values: see `pieces.piece_size`.
        n_workers: threads.
        importance: see `Importance`; tensors that it lacks have none.
        measures: whether errors are summed up.
        codecs: encoders for tensors, by name, that have another one than their type's.
    """

    plan: Sequence[PlannedTensor]
    targets: Sequence[TensorInfo]
    piece_values: int
    n_workers: int
    importance: Importance = field(default_factory=dict)
    measures: bool = False
    codecs: Mapping[str, Codec] = field(default_factory=dict)


def convert(
    conversion: Conversion, source: RowSource, descriptor: int, watch: Callable[[Progress], None]
) -> list[ErrorSums | None]:
    """Write all tensors to the file of `descriptor`; returns the errors of each, None for copies and unmeasured ones.

    Raises:
        FormatError: a value is not finite or does not fit its type; the message names tensor, row and column.
        OSError: the output cannot be written.
    """
    pieces = Pieces(conversion.plan, conversion.piece_values)
    sizes = buffer_sizes(conversion.plan, conversion.piece_values, measures=conversion.measures)
    buffers = [Buffers(sizes) for _ in range(conversion.n_workers)]
    found: dict[int, ErrorSums] = {}
    done = [0] * conversion.n_workers
    latest = [0] * conversion.n_workers

    def work(index: int, worker: int) -> None:
        piece = pieces[index]
        one = conversion.plan[piece.tensor]
        errors = _convert_piece(conversion, piece, source, descriptor, buffers[worker])
        if errors is not None:
            found[index] = errors
        done[worker] += (piece.stop - piece.start) * _row_bytes(one.info.type_name, one)
        latest[worker] = piece.tensor

    def look() -> None:
        watch(Progress(sum(done), max(latest)))

    run_pieces(work, len(pieces), conversion.n_workers, look)
    return [_added(pieces.of_tensor(index), found) for index in range(len(conversion.plan))]


class Buffers:
    """The memory of one worker."""

    def __init__(self, sizes: BufferSizes) -> None:
        self._raw = np.empty(sizes.raw, np.uint8)
        self._values = np.empty(sizes.values, np.float32)
        self._packed = np.empty(sizes.packed, np.uint8)
        self._rounded = np.empty(sizes.rounded, np.float32)

    def raw(self, rows: int, row_bytes: int) -> Bytes:
        return self._raw[: rows * row_bytes].reshape(rows, row_bytes)

    def packed(self, rows: int, row_bytes: int) -> Bytes:
        return self._packed[: rows * row_bytes].reshape(rows, row_bytes)

    def values(self, rows: int, columns: int) -> Floats:
        return self._values[: rows * columns].reshape(rows, columns)

    def rounded(self, rows: int, columns: int) -> Floats:
        return self._rounded[: rows * columns].reshape(rows, columns)


def _convert_piece(
    conversion: Conversion, piece: Piece, source: RowSource, descriptor: int, buffers: Buffers
) -> ErrorSums | None:
    one, target = conversion.plan[piece.tensor], conversion.targets[piece.tensor]
    rows, row_bytes = piece.stop - piece.start, _row_bytes(one.info.type_name, one)
    raw = buffers.raw(rows, row_bytes)
    source.read(one.info, piece.start * row_bytes, raw.reshape(-1))
    where = source.where(one.info)
    if one.is_copied:
        _check_copy(raw, one, piece.start, where, buffers)
        write_fully(descriptor, raw, target.offset + piece.start * row_bytes)
        return None
    values = codec_for(one.info.type_name).decode(raw, buffers.values(rows, one.n_columns))
    importance = _importance_of(conversion.importance.get(one.name), piece.slab)
    codec = conversion.codecs.get(one.name) or codec_for(one.type_name)
    packed = buffers.packed(rows, _row_bytes(one.type_name, one))
    try:
        codec.encode(values, importance, packed)
    except FormatError as error:
        raise refusal(error, values, range(piece.start, piece.stop), where) from error
    _check_words(packed, one.type_name, piece.start, where)
    write_fully(descriptor, packed, target.offset + piece.start * packed.shape[1])
    if not conversion.measures:
        return None
    return measure(values, codec.decode(packed, buffers.rounded(rows, one.n_columns)), importance)


def refusal(error: FormatError, values: Floats, rows: Sequence[int], where: str) -> FormatError:
    """The error of an encoder with the place of the first value that is not finite, or of the one that is too large.

    Args:
        error: as it was raised.
        values: float32 [rows, columns], what was encoded.
        rows: their numbers in the tensor.
        where: names the tensor.
    """
    if not all_finite(values):
        return non_finite_value(values, rows, where)
    found = error.moved_by(int(rows[error.row]) - error.row) if isinstance(error, UnfitValueError) else error
    return FormatError(found.message, where=error.where or where, hint=error.hint)


def _check_copy(raw: Bytes, one: PlannedTensor, first_row: int, where: str, buffers: Buffers) -> None:
    """Refuse infinities and NaNs in what is copied; a damaged scale makes a whole block of them."""
    if not holds_blocks(one):
        _check_words(raw, one.type_name, first_row, where)
        return
    values = codec_for(one.type_name).decode(raw, buffers.values(len(raw), one.n_columns))
    if not all_finite(values):
        raise non_finite_value(values, range(first_row, first_row + len(values)), where)


def _check_words(raw: Bytes, type_name: str, first_row: int, where: str) -> None:
    """Refuse infinities and NaNs among packed floats; blocks are not looked into."""
    if type_name in POSITIVE_INFINITY and not all_finite_packed(raw, type_name):
        values = codec_for(type_name).decode(raw)
        raise non_finite_value(values, range(first_row, first_row + len(values)), where)


def _importance_of(importance: Floats | None, slab: int) -> Floats | None:
    return importance if importance is None or importance.ndim == 1 else importance[slab]


def _row_bytes(type_name: str, tensor: PlannedTensor) -> int:
    return TYPE_BY_NAME[type_name].row_bytes(tensor.n_columns)


def _added(numbers: range, found: Mapping[int, ErrorSums]) -> ErrorSums | None:
    sums = [found[number] for number in numbers if number in found]
    return added_up(sums) if sums else None

"""Makes the tensors of a plan: rows are read from every model, merged, encoded and written where they belong.

How tensors are cut depends on their shapes alone, so the bytes do not depend on the number of threads or the memory;
with little memory fewer threads work.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.codecs.base import Bytes
from entrenar_core.codecs.finite import all_finite, non_finite_value
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import ConfigError, FormatError
from entrenar_core.merge.measures import PieceMeasure, TensorMeasure, measure_piece
from entrenar_core.merge.model_tensors import ModelTensors, PackedRows, matrix_shape
from entrenar_core.merge.output import Sink
from entrenar_core.merge.passes import PIECE_VALUES, Combine, Floats, Inputs, Passes, Piece, TensorFacts, cut
from entrenar_core.merge.plan import MergedTensor
from entrenar_core.merge.registry import method_entry
from entrenar_core.merge.schedule import Task, run_tasks
from entrenar_core.quant.convert import refusal

_FLOAT_BYTES = 4


@dataclass(frozen=True)
class Work:
    """What is made.

    Attributes:
        tensors: in the order of the output.
        types: their GGML types, by name.
        models: what inputs number.
        sink: where rows go.
        measures: whether it is measured what became of each tensor.
        is_task_vector: whether each result is written without its base.
    """

    tensors: Sequence[MergedTensor]
    types: Mapping[str, str]
    models: Sequence[ModelTensors]
    sink: Sink
    measures: bool = False
    is_task_vector: bool = False


def execute(
    work: Work, n_workers: int, watch: Callable[[int, int], None] | None = None
) -> dict[str, Mapping[str, object]]:
    """Make all tensors; returns the measures of each, by name, where they are asked for.

    Args:
        work: what is made.
        n_workers: threads.
        watch: see `schedule.run_tasks`.

    Raises:
        FormatError: an input cannot be read or is not finite, a merged value is not finite or does not fit its type.
        OSError: the output cannot be written.
    """
    buffers = [_Buffers(_buffer_sizes(work.tensors, work.types)) for _ in range(n_workers)]
    makers = [_Maker(work, tensor, buffers) for tensor in work.tensors]
    run_tasks([maker.task() for maker in makers], n_workers, watch)
    return {maker.tensor.name: maker.measured().document() for maker in makers} if work.measures else {}


def workers_within(tensors: Sequence[MergedTensor], types: Mapping[str, str], n_workers: int, budget: int) -> int:
    """How many threads have room for their buffers in `budget` bytes.

    Raises:
        ConfigError: not even one.
    """
    needed = _buffer_sizes(tensors, types).n_bytes
    if needed > budget:
        missing = -(-(needed - budget) // 2**20)
        raise ConfigError(
            f"the longest rows do not fit: {missing} MiB more are needed", where="run.memory", hint="raise --memory"
        )
    return min(n_workers, budget // max(needed, 1))


def n_pieces(tensors: Sequence[MergedTensor]) -> int:
    """Of all tensors together."""
    return sum(len(_pieces(tensor)) for tensor in tensors)


@dataclass(frozen=True)
class _BufferSizes:
    models: int
    values: int
    packed: int

    @property
    def n_bytes(self) -> int:
        return _FLOAT_BYTES * (self.models + 2 * self.values) + self.packed


def _buffer_sizes(tensors: Sequence[MergedTensor], types: Mapping[str, str]) -> _BufferSizes:
    models = values = packed = 0
    for tensor in tensors:
        rows, columns = _pieces(tensor)[0].n_rows, matrix_shape(tensor.shape)[1]
        models = max(models, len(tensor.inputs) * rows * columns)
        values = max(values, rows * columns)
        packed = max(packed, rows * TYPE_BY_NAME[types[tensor.name]].row_bytes(columns))
    return _BufferSizes(models, values, packed)


class _Buffers:
    """The memory of one worker."""

    def __init__(self, sizes: _BufferSizes) -> None:
        self._models = np.empty(sizes.models, np.float32)
        self._base = np.empty(sizes.values, np.float32)
        self._merged = np.empty(sizes.values, np.float32)
        self._packed = np.empty(sizes.packed, np.uint8)

    def models(self, count: int, rows: int, columns: int) -> Floats:
        return self._models[: count * rows * columns].reshape(count, rows, columns)

    def base(self, rows: int, columns: int) -> Floats:
        return self._base[: rows * columns].reshape(rows, columns)

    def merged(self, rows: int, columns: int) -> Floats:
        return self._merged[: rows * columns].reshape(rows, columns)

    def packed(self, rows: int, row_bytes: int) -> Bytes:
        return self._packed[: rows * row_bytes].reshape(rows, row_bytes)


class _Maker:
    """Makes one tensor."""

    def __init__(self, work: Work, tensor: MergedTensor, buffers: Sequence[_Buffers]) -> None:
        self.tensor = tensor
        self._work = work
        self._buffers = buffers
        self._rows, self._columns = matrix_shape(tensor.shape)
        self._type = work.types[tensor.name]
        self._codec = codec_for(self._type)
        self._row_bytes = TYPE_BY_NAME[self._type].row_bytes(self._columns)
        self._pieces = _pieces(tensor)
        self._measures: dict[int, PieceMeasure] = {}
        self._measured: TensorMeasure | None = None
        self._original = self._original_rows()

    def task(self) -> Task:
        return Task(self._begin, self._pieces, self._read, self._write)

    def measured(self) -> TensorMeasure:
        """What became of the tensor, once it is made."""
        assert self._measured is not None
        return self._measured

    def _begin(self) -> Passes:
        tensor = self.tensor
        facts = TensorFacts(tensor.name, (self._rows, self._columns), len(tensor.inputs), tensor.base is not None)
        return method_entry(tensor.method).run(facts, tensor.parameters)

    def _read(self, piece: Piece, worker: int) -> Inputs:
        tensor, buffers = self.tensor, self._buffers[worker]
        models = buffers.models(len(tensor.inputs), piece.n_rows, self._columns)
        for out, one in zip(models, tensor.inputs, strict=True):
            self._work.models[one.model].read(one.name, piece.first_row, out)
        base = None
        if tensor.base is not None:
            base = buffers.base(piece.n_rows, self._columns)
            self._work.models[tensor.base.model].read(tensor.base.name, piece.first_row, base)
        if tensor.offset:
            models -= np.float32(tensor.offset)
            if base is not None:
                base -= np.float32(tensor.offset)
        return Inputs(piece, models, base)

    def _write(self, inputs: Inputs, combine: Combine, worker: int) -> None:
        piece = inputs.piece
        merged = self._buffers[worker].merged(piece.n_rows, self._columns)
        combine(inputs, merged)
        if self._work.measures:
            self._keep(piece, measure_piece(inputs, merged, combine))
        if self._work.is_task_vector and inputs.base is not None:
            merged -= inputs.base
        elif self.tensor.offset:
            merged += np.float32(self.tensor.offset)
        self._work.sink.write(self.tensor.name, piece.first_row, self._encoded(piece, merged, worker))

    def _keep(self, piece: Piece, measure: PieceMeasure) -> None:
        """Keep what was measured, and of a complete tensor the sums alone, in the order of the pieces."""
        found = self._measures
        found[piece.number] = measure
        if len(found) == len(self._pieces):
            self._measured = TensorMeasure.of([found[number] for number in sorted(found)])
            self._measures = {}

    def _original_rows(self) -> PackedRows | None:
        """The model whose rows are written as they are packed, if that is all that happens to them."""
        first = self.tensor.inputs[0]
        model = self._work.models[first.model]
        is_same = self.tensor.is_copy and not self._work.is_task_vector
        return model.packed(first.name) if is_same and model.type_name(first.name) == self._type else None

    def _encoded(self, piece: Piece, merged: Floats, worker: int) -> Bytes:
        numbers = range(piece.first_row, piece.first_row + piece.n_rows)
        where = f"merged tensor {self.tensor.name}"
        if not all_finite(merged):
            error = non_finite_value(merged, numbers, where)
            raise FormatError(error.message, where=where, hint="merge with smaller weights")
        packed = self._buffers[worker].packed(piece.n_rows, self._row_bytes)
        if self._original is not None:
            self._original.read_packed(self.tensor.inputs[0].name, piece.first_row, packed)
            return packed
        try:
            return self._codec.encode(merged, None, packed)
        except FormatError as error:
            unfit = refusal(error, merged, numbers, where)
            unfit.hint = "merge with smaller weights, or write another type: --type f32"
            raise unfit from error


def _pieces(tensor: MergedTensor) -> list[Piece]:
    return cut(*matrix_shape(tensor.shape), PIECE_VALUES)

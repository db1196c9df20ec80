"""Writes a trained model as GGUF: every tensor and key of the base model, with the trained ones in their place.

Tensors that training did not touch are copied as packed bytes; the others are computed, encoded and written one at a
time, so folding an adapter into a large model never holds more than one of its matrices. What rounding cost each of
them is measured on the bytes that are written.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from entrenar_core.codecs.ggml_types import is_few_bits
from entrenar_core.errors import FormatError, TrainingError
from entrenar_core.events import Progress, Reporter, Saved
from entrenar_core.gguf.keys import (
    GENERAL_FILE_TYPE,
    GENERAL_QUANTIZATION_VERSION,
    QUANTIZATION_VERSION,
    QUANTIZE_IMATRIX_PREFIX,
    FileType,
)
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue
from entrenar_core.gguf.writer import Chunk, TensorPlan, copy_tensor, write_gguf
from entrenar_core.quant.encoding import Encoding, Encodings, Rows, TensorEncoding
from entrenar_core.quant.rounding import TensorError
from entrenar_core.stages.changes import Values
from entrenar_core.threads import Threads

Metadata = Iterable[tuple[str, MetadataValue]]

EXACT = frozenset(("F32",))
"""Types whose encoding changes nothing, so that there is no error to measure."""

WRITING = "writing the model"
"""The task of the progress events."""


@dataclass(frozen=True)
class ModelForm:
    """What a model file is to look like.

    encodings: of every tensor. file_type: for ``general.file_type``; None: what the matrices share, else that of the
    base. provenance: keys to add. threads: that encode side by side.
    """

    encodings: Encodings
    file_type: FileType | None = None
    provenance: Metadata = ()
    threads: int = 1


@dataclass(frozen=True)
class _Target:
    """One tensor of the output. `source` gives access to its values when its turn has come; None: it is copied."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding
    source: Callable[[], Rows] | None
    start: Rows | None = None

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """Rows and their length; a vector is one row."""
        row = self.shape[-1] if self.shape else 1
        return math.prod(self.shape[:-1]), row


@dataclass
class _Output:
    """A file being written: where, with which threads, and what it cost so far."""

    path: Path
    threads: Threads
    reporter: Reporter
    errors: list[TensorError] = field(default_factory=list)


def export_over_base(
    path: Path,
    base: GGUFFile,
    changed: Mapping[str, Values],
    form: ModelForm,
    reporter: Reporter,
    start: Callable[[str, slice], np.ndarray] | None = None,
) -> list[TensorError]:
    """Write `base` with some tensors replaced.

    Args:
        path: of the new file.
        base: stays open until this returns.
        changed: new float32 values by tensor name, in numpy order.
        form: types and more; a tensor that is not changed and has its own type there is copied byte by byte.
        reporter: hears of progress and of the file.
        start: some rows of what training started from, for the size of the change; None: the rows of `base`.

    Returns:
        The error of each matrix that was encoded.

    Raises:
        FormatError: a value does not fit the type; the message names the tensor.
        TrainingError: a value is not finite.
        OutputError: the file cannot be written.
    """
    before = start or (lambda name, rows: base.load(name, rows=rows))
    targets = []
    for name, info in base.tensors.items():
        encoding, values = form.encodings[name], changed.get(name)
        source = None if values is None else _rows_of(values)
        if source is None and not _is_a_copy(encoding, info.type_name):
            source = _rows_in_file(base, name)
        is_compared = values is not None and len(info.shape) == 2
        targets.append(
            _Target(name, tuple(info.shape), encoding, source, _part_of(before, name) if is_compared else None)
        )
    return _write(path, base.metadata_entries(), targets, form, reporter, base)


def export_new(
    path: Path, metadata: Metadata, weights: Mapping[str, np.ndarray], form: ModelForm, reporter: Reporter
) -> list[TensorError]:
    """Write a model that has no base file. See above."""
    targets = [
        _Target(name, values.shape, form.encodings[name], _rows_of(lambda values=values: values))  # type: ignore[misc]
        for name, values in weights.items()
    ]
    return _write(path, list(metadata), targets, form, reporter, None)


def _is_a_copy(encoding: Encoding, present: str) -> bool:
    """Whether an untouched tensor of type `present` is encoded so already; blocks that share scales are others."""
    return encoding.type_name == present and encoding.granularity == "block" and encoding.encoder is None


def _rows_of(values: Values) -> Callable[[], Rows]:
    def open_tensor() -> Rows:
        computed = values()
        matrix = computed.reshape(-1, computed.shape[-1]) if computed.ndim else computed.reshape(1, 1)
        return lambda rows: matrix[rows]

    return open_tensor


def _rows_in_file(base: GGUFFile, name: str) -> Callable[[], Rows]:
    if len(base.tensors[name].shape) != 2:
        return _rows_of(lambda: base.load(name))
    return lambda: lambda rows: base.load(name, rows=rows)


def _part_of(start: Callable[[str, slice], np.ndarray], name: str) -> Rows:
    return lambda rows: start(name, rows)


def _write(
    path: Path,
    metadata: Sequence[tuple[str, MetadataValue]],
    targets: Sequence[_Target],
    form: ModelForm,
    reporter: Reporter,
    base: GGUFFile | None,
) -> list[TensorError]:
    threads = Threads(form.threads)
    output = _Output(path, threads, reporter)
    n_encoded = sum(target.source is not None for target in targets)
    plans, number = [], 0
    for target in targets:
        if target.source is None:
            assert base is not None, "a new model has no tensor to copy"
            plans.append(copy_tensor(base, target.name))
        else:
            number += 1
            plans.append(_encoded(target, target.source, output, (number, n_encoded)))
    added = dict(form.provenance)
    entries = _with_types(_still_true(metadata, targets), targets, form.file_type)
    kept = [(key, value) for key, value in entries if key not in added]
    try:
        size = write_gguf(path, [*kept, *added.items()], plans)
    finally:
        threads.close()
    reporter.emit(Saved("model", path, size))
    return output.errors


def _encoded(target: _Target, source: Callable[[], Rows], output: _Output, place: tuple[int, int]) -> TensorPlan:
    """`place`: which of the encoded tensors this is, and how many there are."""

    def produce() -> Iterator[Chunk]:
        type_name, where = target.encoding.type_name, f"{output.path}: tensor {target.name}"
        is_measured = len(target.shape) > 1 and type_name not in EXACT
        work = TensorEncoding(target.matrix_shape, source(), target.encoding, target.start, is_measured)
        try:
            yield from work.pieces(output.threads)
        except FormatError as error:
            raise FormatError(error.message, where=where, hint=_way_out(type_name)) from error
        except TrainingError as error:
            raise TrainingError(error.message, where=where, hint=error.hint) from error
        if is_measured:
            output.errors.append(TensorError.of(target.name, type_name, work.sums, has_start=target.start is not None))
        output.reporter.emit(Progress(WRITING, *place))

    return TensorPlan(target.name, target.shape, target.encoding.type_name, produce)


def _way_out(type_name: str) -> str:
    wider = "f32" if is_few_bits(type_name) else "f32 or bf16"
    return f"set output.type, or with a quantize section the tensor's type in quantize.tensor_types, to {wider}"


def _still_true(
    entries: Sequence[tuple[str, MetadataValue]], targets: Sequence[_Target]
) -> Sequence[tuple[str, MetadataValue]]:
    """What the base says of its importance matrix goes when nothing is left of what was rounded by it."""
    if any(one.source is None and is_few_bits(one.encoding.type_name) for one in targets):
        return entries
    return [(key, value) for key, value in entries if not key.startswith(QUANTIZE_IMATRIX_PREFIX)]


def _with_types(
    entries: Sequence[tuple[str, MetadataValue]], targets: Sequence[_Target], wanted: FileType | None
) -> list[tuple[str, MetadataValue]]:
    """The metadata, saying the type of the matrices if they have a mix or share one type."""
    found = {target.encoding.type_name for target in targets if len(target.shape) > 1}
    if wanted is None and len(found) == 1:
        wanted = FileType.__members__.get(next(iter(found)))
    result = list(entries)
    if wanted is not None:
        result = _with_key(result, GENERAL_FILE_TYPE, wanted)
    if any(map(is_few_bits, found)):
        result = _with_key(result, GENERAL_QUANTIZATION_VERSION, QUANTIZATION_VERSION)
    return result


def _with_key(entries: list[tuple[str, MetadataValue]], key: str, number: int) -> list[tuple[str, MetadataValue]]:
    value = MetadataValue.uint32(number)
    if any(name == key for name, _ in entries):
        return [(name, value if name == key else old) for name, old in entries]
    return [*entries, (key, value)]

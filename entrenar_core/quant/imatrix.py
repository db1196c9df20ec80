"""Importance matrices in llama.cpp's GGUF format: the mean square of every input column of a weight, from real texts.

For each weight the file has ``<weight>.in_sum2``, the sums of the squares of its inputs, and ``<weight>.counts``, how
many inputs were summed. Their quotient is the importance of a column: what its squared error is weighed by, see
docs/calibration.md. Weights with several matrices (experts) have a row of sums for each.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from entrenar_core.codecs.base import Floats
from entrenar_core.errors import FormatError
from entrenar_core.gguf.keys import GENERAL_TYPE, IMATRIX_CHUNK_COUNT, IMATRIX_CHUNK_SIZE, IMATRIX_DATASETS
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.values import MetadataValue, ValueType
from entrenar_core.gguf.writer import TensorPlan, encode_tensor, write_gguf

IMATRIX_TYPE = "imatrix"
SUMS, COUNTS = ".in_sum2", ".counts"
_PARTS = (SUMS, COUNTS)

_OLD_HINT = "write it as GGUF: llama-imatrix --in-file OLD.dat -o NEW.gguf"
_OTHER_HINT = "give a file that llama-imatrix or entrenar calibrate has written"
_MATRIX_AXES = 2
_LONGEST_NAME = 256
"""Bytes; the old binary format has no magic, and is known by a first name of a possible length."""


class Shaped(Protocol):
    """A tensor in a file or in memory; its shape is in numpy order."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True, eq=False)
class ImportanceEntry:
    """The sums of one weight.

    sums: float32 [matrices, in], Σ x² of each input column. counts: float32 [matrices] or [1], the inputs summed.

    Raises:
        FormatError: a sum is negative or not finite; a count is no whole number; there is not a single input.
    """

    sums: Floats
    counts: Floats

    def __post_init__(self) -> None:
        if not (np.isfinite(self.sums).all() and self.sums.min(initial=0.0) >= 0.0):
            raise FormatError("a sum of squares is negative or not finite", hint="measure it again")
        whole = np.isfinite(self.counts).all() and np.array_equal(self.counts, np.floor(self.counts))
        if not whole or self.counts.min(initial=0.0) < 0.0:
            raise FormatError("the counts are no whole numbers", hint="measure it again")
        if not self.counts.any():
            raise FormatError("its count is zero: no input was measured", hint="measure it on more text")

    @property
    def unmeasured(self) -> int:
        """Matrices (experts) that no input reached."""
        return int(np.count_nonzero(self.counts == 0))

    def importance(self) -> Floats:
        """float32 [matrices, in], the mean square of each column; 1 for a matrix that no input reached."""
        counts = np.where(self.counts == 0, np.float32(1), self.counts)[:, None]
        sums = np.where(self.counts[:, None] == 0, np.float32(1), self.sums)
        return np.ascontiguousarray(sums / counts, np.float32)


@dataclass(frozen=True, eq=False)
class ImportanceMatrix:
    """What was measured on some texts.

    entries: by name of the weight. datasets: names of the data. chunk_count, chunk_size: rows of tokens, and the tokens
    of a row.
    """

    entries: Mapping[str, ImportanceEntry]
    datasets: tuple[str, ...]
    chunk_count: int
    chunk_size: int


def read_imatrix(path: str | os.PathLike[str]) -> ImportanceMatrix:
    """The importance matrix in a file.

    Raises:
        FormatError: it is none, or of the old binary format, or its numbers cannot be used.
    """
    where = Path(path)
    _refuse_old_format(where)
    with GGUFFile.open(where) as file:
        if file.metadata.get(GENERAL_TYPE) != IMATRIX_TYPE:
            raise FormatError("this GGUF file is no importance matrix", where=str(where), hint=_OTHER_HINT)
        names = _weights_of(file, str(where))
        return ImportanceMatrix(
            {name: _read_entry(file, name) for name in names},
            _datasets(file, str(where)),
            _count(file, IMATRIX_CHUNK_COUNT, str(where)),
            _count(file, IMATRIX_CHUNK_SIZE, str(where)),
        )


def write_imatrix(path: str | os.PathLike[str], matrix: ImportanceMatrix) -> int:
    """Write a file that llama-quantize reads too; returns its size in bytes.

    Raises:
        FormatError: a name is too long for GGUF, or there is nothing to write.
        OutputError: the file cannot be written.
    """
    if not matrix.entries:
        raise FormatError("the importance matrix is empty", where=str(path), hint="measure it on some text")
    metadata = [
        (GENERAL_TYPE, MetadataValue.string(IMATRIX_TYPE)),
        (IMATRIX_DATASETS, MetadataValue.array(ValueType.STRING, list(matrix.datasets))),
        (IMATRIX_CHUNK_COUNT, MetadataValue.uint32(matrix.chunk_count)),
        (IMATRIX_CHUNK_SIZE, MetadataValue.uint32(matrix.chunk_size)),
    ]
    return write_gguf(path, metadata, (plan for name, entry in matrix.entries.items() for plan in _plans(name, entry)))


def importance_of_tensors(matrix: ImportanceMatrix, tensors: Mapping[str, Shaped], where: str) -> dict[str, Floats]:
    """The importance of each measured weight of a model.

    Args:
        matrix: as it was read.
        tensors: those of the model.
        where: the file of the matrix, for messages.

    Returns:
        By name of the weight, float32 [in]; [matrices, in] for a weight with several matrices.

    Raises:
        FormatError: the matrix was measured on another model.
    """
    return {name: _fitted(name, entry, tensors.get(name), where) for name, entry in matrix.entries.items()}


def _fitted(name: str, entry: ImportanceEntry, tensor: Shaped | None, where: str) -> Floats:
    place = f"{where}: tensor {name}"
    hint = "the importance matrix belongs to another model"
    shape = () if tensor is None else tensor.shape
    if len(shape) < _MATRIX_AXES:
        raise FormatError("the model has no such matrix", where=place, hint=hint)
    matrices, columns = math.prod(shape[:-2]), shape[-1]
    if entry.sums.size != matrices * columns or len(entry.counts) not in (1, matrices):
        wanted = f"{columns} columns" if matrices == 1 else f"{matrices} matrices of {columns} columns"
        raise FormatError(f"{entry.sums.size} sums for {wanted}", where=place, hint=hint)
    importance = entry.importance()
    return importance.reshape(columns) if matrices == 1 else importance.reshape(matrices, columns)


def _refuse_old_format(path: Path) -> None:
    """The format without a magic: a count of entries, then the length of a name and the name itself."""
    if not path.is_file():
        return
    with path.open("rb") as stream:
        start = stream.read(8 + _LONGEST_NAME)
    entries, length = (int.from_bytes(start[place : place + 4], "little") for place in (0, 4))
    name = start[8 : 8 + length]
    if not start.startswith(b"GGUF") and entries and 0 < length == len(name) and name.endswith(b".weight"):
        raise FormatError("this importance matrix is in the old binary format", where=str(path), hint=_OLD_HINT)


def _weights_of(file: GGUFFile, where: str) -> list[str]:
    """The weights that have sums, in file order, each of which has counts too."""
    for name in file.tensors:
        if not name.endswith(_PARTS):
            raise FormatError(f"the tensor {name} has no place in an importance matrix", where=where, hint=_OTHER_HINT)
    summed, counted = (_named(file, suffix) for suffix in _PARTS)
    for name in sorted(set(summed) ^ set(counted)):
        missing = COUNTS if name in summed else SUMS
        raise FormatError(f"the tensor {name}{missing} is missing", where=where, hint=_OTHER_HINT)
    if not summed:
        raise FormatError("the importance matrix is empty", where=where, hint=_OTHER_HINT)
    return summed


def _named(file: GGUFFile, suffix: str) -> list[str]:
    return [name.removesuffix(suffix) for name in file.tensors if name.endswith(suffix)]


def _read_entry(file: GGUFFile, name: str) -> ImportanceEntry:
    for suffix in _PARTS:
        info = file.tensors[name + suffix]
        if info.type_name != "F32":
            raise FormatError(
                f"{info.type_name} values, and F32 is needed", where=f"{file.paths[0]}: tensor {info.name}"
            )
    counts = file.load(name + COUNTS).reshape(-1)
    sums = file.load(name + SUMS)
    if sums.size % len(counts):
        raise FormatError(
            f"{sums.size} sums for {len(counts)} counts", where=f"{file.paths[0]}: tensor {name}", hint=_OTHER_HINT
        )
    try:
        return ImportanceEntry(sums.reshape(len(counts), -1), counts)
    except FormatError as error:
        raise FormatError(error.message, where=f"{file.paths[0]}: tensor {name}", hint=error.hint) from error


def _datasets(file: GGUFFile, where: str) -> tuple[str, ...]:
    value = file.metadata.get(IMATRIX_DATASETS)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError("no list of texts", where=f"{where}: key {IMATRIX_DATASETS}", hint=_OTHER_HINT)
    return tuple(value)


def _count(file: GGUFFile, key: str, where: str) -> int:
    value = file.metadata.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise FormatError("no number", where=f"{where}: key {key}", hint=_OTHER_HINT)
    return value


def _plans(name: str, entry: ImportanceEntry) -> Iterable[TensorPlan]:
    """Two tensors in the shapes that ggml has: axes of length 1 at the front are left out."""
    sums = entry.sums[0] if len(entry.sums) == 1 else entry.sums
    counts = entry.counts if len(entry.counts) == 1 else entry.counts[:, None]
    yield encode_tensor(name + SUMS, np.ascontiguousarray(sums), "F32")
    yield encode_tensor(name + COUNTS, np.ascontiguousarray(counts), "F32")

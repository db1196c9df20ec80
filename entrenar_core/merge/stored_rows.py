"""Rows of the tensors in a model's files: read into memory that is used again, checked and decoded, on any thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

import numpy as np

from entrenar_core.codecs.base import Bytes, Floats
from entrenar_core.codecs.finite import POSITIVE_INFINITY, all_finite, all_finite_packed, non_finite_value
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.tensor_info import TensorInfo
from entrenar_core.merge.model_tensors import matrix_shape
from entrenar_core.quant.source import RowSource, TensorFiles


class Scratch(threading.local):
    """Memory of each thread for some rows of bytes."""

    def __init__(self) -> None:
        self._bytes = np.empty(0, np.uint8)

    def rows(self, n_rows: int, row_bytes: int) -> Bytes:
        """uint8 [n_rows, row_bytes], valid until the next call on this thread."""
        n_bytes = n_rows * row_bytes
        if self._bytes.size < n_bytes:
            self._bytes = np.empty(n_bytes, np.uint8)
        return self._bytes[:n_bytes].reshape(n_rows, row_bytes)


class StoredRows:
    """The files of a model, open for reading values.

    Raises:
        FormatError: a tensor has a type that nobody decodes.
    """

    def __init__(self, files: TensorFiles, tensors: Iterable[TensorInfo]) -> None:
        for info in tensors:
            check_decodable(info, f"{files.paths[info.shard]}: tensor {info.name}")
        self._source = RowSource(files)
        self._scratch = Scratch()

    def read(self, info: TensorInfo, first_row: int, out: Floats) -> None:
        """See `ModelTensors.read`."""
        raw = self._scratch.rows(len(out), row_bytes(info))
        self.read_packed(info, first_row, raw)
        self.decode(info, range(first_row, first_row + len(out)), raw, out)

    def read_packed(self, info: TensorInfo, first_row: int, raw: Bytes) -> None:
        """Fill `raw`, uint8 [r, row_bytes], with packed rows as they are."""
        n_rows = matrix_shape(info.shape)[0]
        if first_row < 0 or first_row + len(raw) > n_rows:
            raise ValueError(f"rows {first_row} to {first_row + len(raw)} of {info.name}, which has {n_rows}")
        self._source.read(info, first_row * raw.shape[1], raw.reshape(-1))

    def decode(self, info: TensorInfo, numbers: Sequence[int], raw: Bytes, out: Floats) -> None:
        """Packed rows of these numbers to float32 [r, C]; FormatError for a value that is not finite."""
        codec_for(info.type_name).decode(raw, out)
        is_float = info.type_name in POSITIVE_INFINITY
        if not (all_finite_packed(raw, info.type_name) if is_float else all_finite(out)):
            raise non_finite_value(out, numbers, self._source.where(info))

    def close(self) -> None:
        """Let go of the files."""
        self._source.close()


def row_bytes(info: TensorInfo) -> int:
    """Bytes of a packed row."""
    return TYPE_BY_NAME[info.type_name].row_bytes(matrix_shape(info.shape)[1])


def check_decodable(info: TensorInfo, where: str) -> None:
    """Raises FormatError for a type that nobody decodes; `where` names the tensor."""
    try:
        codec_for(info.type_name)
    except FormatError as error:
        raise FormatError(error.message, where=where, hint=error.hint) from error

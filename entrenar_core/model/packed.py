"""Frozen weights that stay in GGML blocks, and how they come out of a file (Dettmers et al. 2023, QLoRA).

A tensor that the file has in the wanted type is used where it lies, memory-mapped. Another one is decoded and encoded
some rows at a time, so no matrix exists in full precision. The matrices of the blocks are packed. `token_embd` and
`output` are not: the loss reads the output matrix once for each chunk of rows, and decoding it as often would cost more
than multiplying by it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np

from entrenar_core.backend.base import Backend, WeightHandle
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, packed_shape

_PIECE_VALUES = 1 << 20
"""Values that a thread decodes and encodes at a time."""


class PackedWeight:
    """A weight [out, in] in blocks where a layer else has a tensor: it has a name and a shape, and never a gradient."""

    requires_grad = False

    def __init__(self, name: str, matrix: PackedMatrix, backend: Backend) -> None:
        self.name = name
        self.matrix = matrix
        self.backend = backend
        self.handle: WeightHandle = backend.prepare_packed(matrix)

    @property
    def shape(self) -> tuple[int, int]:
        return self.matrix.shape

    @property
    def n_values(self) -> int:
        n_out, n_in = self.shape
        return n_out * n_in

    def numpy(self) -> np.ndarray:
        """The values that are multiplied by, float32 [out, in], decoded afresh."""
        return self.matrix.values()


def is_packable(info: TensorInfo, type_name: str) -> bool:
    """Whether a tensor is a matrix of a block whose rows are whole blocks of `type_name`."""
    return is_block_matrix(info) and info.shape[-1] % TYPE_BY_NAME[type_name].block_size == 0


def is_block_matrix(info: TensorInfo) -> bool:
    """Whether a tensor is one of the matrices that a packed base holds in blocks, if its rows fit."""
    return info.name.startswith("blk.") and len(info.shape) == 2


def pack_tensor(file: GGUFFile, name: str, type_name: str, n_threads: int) -> PackedMatrix:
    """A matrix of the file in blocks of `type_name`.

    Raises:
        FormatError: its values do not fit the type; the message names the tensor.
    """
    info = file.tensors[name]
    if info.type_name == type_name:
        return PackedMatrix(file.raw(name), type_name)
    packed = np.empty(packed_shape(info.shape, TYPE_BY_NAME[type_name]), np.uint8)
    codec = codec_for(type_name)
    n_rows = max(1, _PIECE_VALUES // info.shape[1])

    def encode(start: int) -> None:
        rows = slice(start, start + n_rows)
        packed[rows] = codec.encode(file.load(name, rows=rows))

    try:
        with ThreadPoolExecutor(n_threads) as threads:
            list(threads.map(encode, range(0, info.shape[0], n_rows)))
    except FormatError as error:
        where = error.where or f"{file.paths[info.shard]}: tensor {name}"
        raise FormatError(error.message, where=where, hint="train without the quantize section") from error
    return PackedMatrix(packed, type_name)

"""Frozen weights that stay in GGML blocks, and how they come out of a file (Dettmers et al. 2023, QLoRA).

A tensor that the file has in the wanted type is used where it lies, memory-mapped. Another one is decoded and encoded
some rows at a time, so no matrix exists in full precision. Any matrix can be held so: those of layers, the token
embedding, of which only the rows at hand are decoded, and the output matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from entrenar_core.backend.base import Backend, WeightHandle
from entrenar_core.codecs.ggml_types import TYPE_BY_NAME, is_few_bits
from entrenar_core.codecs.packed import PackedMatrix
from entrenar_core.codecs.parallel import convert_rows
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, packed_shape
from entrenar_core.threads import Threads


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


def own_blocks(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The matrices that are in blocks of few bits as they stand, by name, with their types."""
    return {name: info.type_name for name, info in tensors.items() if is_in_blocks(info)}


def float_matrices(tensors: Mapping[str, TensorInfo]) -> dict[str, str]:
    """The matrices of floating types, by name, with their types."""
    return {
        n: info.type_name for n, info in tensors.items() if len(info.shape) == 2 and not is_few_bits(info.type_name)
    }


def is_in_blocks(info: TensorInfo) -> bool:
    """Whether a tensor is a matrix of a type whose values share scales in blocks."""
    return len(info.shape) == 2 and is_few_bits(info.type_name)


def is_block_matrix(info: TensorInfo) -> bool:
    """Whether a tensor is a matrix of a layer."""
    return info.name.startswith("blk.") and len(info.shape) == 2


def pack_tensor(file: GGUFFile, name: str, type_name: str, threads: Threads) -> PackedMatrix:
    """A matrix of the file in blocks of `type_name`.

    Raises:
        FormatError: its values do not fit the type; the message names the tensor.
    """
    info = file.tensors[name]
    if info.type_name == type_name:
        return PackedMatrix(file.raw(name), type_name)
    packed = np.empty(packed_shape(info.shape, TYPE_BY_NAME[type_name]), np.uint8)
    try:
        convert_rows(codec_for(info.type_name), file.raw(name), codec_for(type_name), threads, out=packed)
    except FormatError as error:
        where = error.where or f"{file.paths[info.shard]}: tensor {name}"
        raise FormatError(error.message, where=where, hint="train without the quantize section") from error
    return PackedMatrix(packed, type_name)

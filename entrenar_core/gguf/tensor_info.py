"""The description of one tensor: name, shape, type and where its bytes are.

Shapes are in numpy order, ``[out, in]``; the file stores them reversed. The size rules that reader and writer share
are here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from entrenar_core.codecs.ggml_types import REMOVED_TYPES, TYPE_BY_ID, TYPE_BY_NAME, GGMLType
from entrenar_core.errors import FormatError

MAX_DIMENSIONS = 4
_MAX_VALUES = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """A tensor of a file. `offset` is in bytes from the start of the file (of shard number `shard`, from 0)."""

    name: str
    shape: tuple[int, ...]
    type_name: str
    n_bytes: int
    offset: int
    shard: int = 0

    @property
    def n_values(self) -> int:
        return math.prod(self.shape)

    @property
    def raw_shape(self) -> tuple[int, ...]:
        """Shape of the packed bytes: ``[rows..., row_bytes]``."""
        return packed_shape(self.shape, TYPE_BY_NAME[self.type_name])


def packed_shape(shape: tuple[int, ...], ggml_type: GGMLType) -> tuple[int, ...]:
    """Shape in bytes of a tensor of `shape` values; a tensor without axes is one value."""
    values = shape or (1,)
    return (*values[:-1], ggml_type.row_bytes(values[-1]))


def tensor_bytes(shape: tuple[int, ...], ggml_type: GGMLType) -> int:
    """Size in bytes of a tensor; Python integers, so nothing overflows on the way.

    Raises FormatError for more than four axes, an axis without values, more values than GGML can count, and rows that
    are no whole number of blocks.
    """
    if len(shape) > MAX_DIMENSIONS:
        raise FormatError(f"{len(shape)} dimensions; GGUF allows {MAX_DIMENSIONS}")
    if any(axis <= 0 for axis in shape):
        raise FormatError(f"shape {list(shape)} has an axis without values")
    if math.prod(shape) > _MAX_VALUES:
        raise FormatError(f"shape {list(shape)} has more values than a 64-bit integer counts")
    row = shape[-1] if shape else 1
    if row % ggml_type.block_size:
        raise FormatError(
            f"rows of {row} values do not divide into {ggml_type.name} blocks of {ggml_type.block_size} values"
        )
    return math.prod(packed_shape(shape, ggml_type))


def type_by_id(type_id: int) -> GGMLType:
    """The type with this id in a file. Raises FormatError for ids nobody knows and for removed types."""
    if type_id in TYPE_BY_ID:
        return TYPE_BY_ID[type_id]
    if type_id in REMOVED_TYPES:
        raise FormatError(
            f"type {REMOVED_TYPES[type_id]} (id {type_id}) was removed from GGML",
            hint="quantize the model again with a current llama-quantize",
        )
    raise FormatError(f"unknown tensor type id {type_id}", hint="the file is damaged, or newer than this program")

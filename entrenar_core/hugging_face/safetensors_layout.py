"""Where each tensor of a safetensors folder will lie, before anything is written: headers, offsets, files, index."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import FormatError
from entrenar_core.gguf.layout import TensorSpec
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.hugging_face.safetensors_files import FLOAT_TYPES

SHARD_BYTES = 5_000_000_000
"""Bytes of tensors that a file has at most, unless a single one has more."""

_ALIGNMENT = 8
_TYPE_NAMES = {ggml: name for name, ggml in FLOAT_TYPES.items()}


@dataclass(frozen=True)
class SafetensorsLayout:
    """A file as it will be: its name, its first bytes, its tensors with their offsets in it, and its size."""

    name: str
    header: bytes
    tensors: tuple[TensorInfo, ...]
    total: int


def lay_out_safetensors(tensors: Sequence[TensorSpec], shard_bytes: int = SHARD_BYTES) -> list[SafetensorsLayout]:
    """The files of a model.

    Args:
        tensors: name, shape and GGML type, in the order of the files.
        shard_bytes: see `SHARD_BYTES`.

    Raises:
        FormatError: a type that safetensors does not have, or a shape that cannot be.
    """
    shards: list[list[TensorSpec]] = [[]]
    room = shard_bytes
    for spec in tensors:
        n_bytes = _checked_bytes(spec)
        if shards[-1] and n_bytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(spec)
        room -= n_bytes
    if len(shards) == 1:
        return [_file("model.safetensors", shards[0], 0)]
    count = len(shards)
    return [
        _file(f"model-{number + 1:05}-of-{count:05}.safetensors", shard, number) for number, shard in enumerate(shards)
    ]


def index_of(files: Sequence[SafetensorsLayout]) -> Mapping[str, Any]:
    """What ``model.safetensors.index.json`` says of several files."""
    places = {info.name: file.name for file in files for info in file.tensors}
    total = sum(info.n_bytes for file in files for info in file.tensors)
    return {"metadata": {"total_size": total}, "weight_map": places}


def _checked_bytes(spec: TensorSpec) -> int:
    name, shape, type_name = spec
    if type_name not in _TYPE_NAMES:
        raise FormatError(
            f"safetensors has no type {type_name}", where=f"tensor {name}", hint="choose f16, bf16 or f32"
        )
    return tensor_bytes(tuple(shape), TYPE_BY_NAME[type_name])


def _file(name: str, tensors: Sequence[TensorSpec], number: int) -> SafetensorsLayout:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    infos, offset = [], 0
    for spec in tensors:
        tensor, shape, type_name = spec
        n_bytes = _checked_bytes(spec)
        header[tensor] = {
            "dtype": _TYPE_NAMES[type_name],
            "shape": list(shape),
            "data_offsets": [offset, offset + n_bytes],
        }
        infos.append((tensor, tuple(shape), type_name, n_bytes, offset))
        offset += n_bytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    start = 8 + len(text)
    placed = tuple(TensorInfo(*info[:4], start + info[4], number) for info in infos)
    return SafetensorsLayout(name, struct.pack("<Q", len(text)) + text, placed, start + offset)

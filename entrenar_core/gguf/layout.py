"""Where everything of a GGUF file lies before a byte of it is written: header, tensors, padding, size.

The header needs only names, shapes and types, so the size of a file is known before its tensors are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.errors import FormatError
from entrenar_core.gguf.foreign import MAGIC
from entrenar_core.gguf.header import DEFAULT_ALIGNMENT, checked_alignment
from entrenar_core.gguf.keys import GENERAL_ALIGNMENT, SPLIT_COUNT
from entrenar_core.gguf.shards import shard_count
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.gguf.values import MetadataValue, encode_string

VERSION = 3
MAX_NAME_BYTES = 63
"""GGML keeps tensor names in 64 bytes, the last one a zero; llama.cpp refuses files with longer ones."""

TensorSpec = tuple[str, tuple[int, ...], str]
"""Name, shape in numpy order, and type."""


@dataclass(frozen=True)
class Layout:
    """A file as it will be.

    Attributes:
        keys: of the metadata, in order.
        header: the bytes up to the padding before the data.
        tensors: in order; their offsets are from the start of the file.
        alignment: of each tensor and of the end of the file.
        data_start: where the first tensor begins.
        total: size of the file in bytes.
    """

    keys: tuple[str, ...]
    header: bytes
    tensors: tuple[TensorInfo, ...]
    alignment: int
    data_start: int
    total: int


def lay_out(metadata: Iterable[tuple[str, MetadataValue]], tensors: Iterable[TensorSpec], target: Path) -> Layout:
    """The layout of a file; `target` is only named in errors.

    Raises:
        FormatError: keys or tensors clash or do not fit the format.
    """
    entries = _unique_entries(metadata, target)
    _refuse_shard(entries, target)
    alignment = _alignment(entries, target)
    infos = _offsets(tensors, alignment, target)
    header = _header(entries, infos)
    data_start = aligned(len(header), alignment)
    data = aligned(infos[-1].offset + infos[-1].n_bytes, alignment) if infos else 0
    placed = tuple(
        TensorInfo(info.name, info.shape, info.type_name, info.n_bytes, data_start + info.offset) for info in infos
    )
    return Layout(tuple(entries), header, placed, alignment, data_start, data_start + data)


def aligned(position: int, alignment: int) -> int:
    """The next multiple of `alignment`."""
    return -(-position // alignment) * alignment


def located(error: FormatError, target: Path, tensor: str) -> FormatError:
    """The error with the tensor it is about, unless it already says where it happened."""
    return FormatError(error.message, where=error.where or f"{target}: tensor {tensor[:100]}", hint=error.hint)


def _unique_entries(metadata: Iterable[tuple[str, MetadataValue]], target: Path) -> dict[str, MetadataValue]:
    entries: dict[str, MetadataValue] = {}
    for key, value in metadata:
        if key in entries or not 0 < len(key.encode()) <= 65535:
            reason = "the key occurs twice" if key in entries else "a key has 1 to 65535 bytes"
            raise FormatError(reason, where=f"{target}: key {key[:100]}")
        entries[key] = value
    return entries


def _refuse_shard(entries: Mapping[str, MetadataValue], target: Path) -> None:
    count = shard_count(entries, target)
    if count > 1:
        raise FormatError(f"one whole file is written, not one of {count} shards", where=f"{target}: key {SPLIT_COUNT}")


def _alignment(entries: Mapping[str, MetadataValue], target: Path) -> int:
    entry = entries.get(GENERAL_ALIGNMENT)
    return DEFAULT_ALIGNMENT if entry is None else checked_alignment(entry, str(target))


def _offsets(tensors: Iterable[TensorSpec], alignment: int, target: Path) -> list[TensorInfo]:
    """Sizes and offsets (from the start of the data) of all tensors, checked against the format's limits."""
    infos: list[TensorInfo] = []
    names: set[str] = set()
    offset = 0
    for name, shape, type_name in tensors:
        try:
            n_bytes = _checked_bytes(name, tuple(shape), type_name, names)
        except FormatError as error:
            raise located(error, target, name) from error
        names.add(name)
        infos.append(TensorInfo(name, tuple(shape), type_name, n_bytes, offset))
        offset += aligned(n_bytes, alignment)
    return infos


def _checked_bytes(name: str, shape: tuple[int, ...], type_name: str, names: set[str]) -> int:
    if name in names:
        raise FormatError("the tensor occurs twice")
    if not 0 < len(name.encode()) <= MAX_NAME_BYTES:
        raise FormatError(f"a tensor name has 1 to {MAX_NAME_BYTES} bytes")
    if type_name not in TYPE_BY_NAME:
        raise FormatError(f"unknown tensor type {type_name!r}")
    return tensor_bytes(shape, TYPE_BY_NAME[type_name])


def _header(entries: Mapping[str, MetadataValue], infos: list[TensorInfo]) -> bytes:
    pieces: list[bytes | memoryview] = [MAGIC, struct.pack("<IQQ", VERSION, len(infos), len(entries))]
    for key, value in entries.items():
        pieces += [encode_string(key), struct.pack("<I", value.type), value.encode()]
    for info in infos:
        axes = len(info.shape)
        type_id = TYPE_BY_NAME[info.type_name].id
        pieces.append(encode_string(info.name))
        pieces.append(struct.pack(f"<I{axes}QIQ", axes, *info.shape[::-1], type_id, info.offset))
    return b"".join(pieces)

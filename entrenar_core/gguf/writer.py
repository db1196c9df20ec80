"""Writes a GGUF file (version 3, little-endian) as a stream: header first, then one tensor at a time.

The header needs only names, shapes and types, so no more than one tensor is ever in memory. Before the file takes its
name it is opened with our own reader and compared with what was meant.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from entrenar_core.codecs.ggml_types import TYPE_BY_NAME
from entrenar_core.codecs.registry import codec_for
from entrenar_core.errors import FormatError, OutputError
from entrenar_core.gguf.atomic import atomic_file
from entrenar_core.gguf.foreign import MAGIC
from entrenar_core.gguf.header import DEFAULT_ALIGNMENT, checked_alignment
from entrenar_core.gguf.keys import GENERAL_ALIGNMENT, SPLIT_COUNT
from entrenar_core.gguf.reader import GGUFFile
from entrenar_core.gguf.tensor_info import TensorInfo, tensor_bytes
from entrenar_core.gguf.values import MetadataValue, encode_string

Chunk = npt.NDArray[np.uint8]
VERSION = 3
MAX_NAME_BYTES = 63
"""GGML keeps tensor names in 64 bytes, the last one a zero; llama.cpp refuses files with longer ones."""

_PADDING_BYTES = 1 << 16
_ENCODE_VALUES = 1 << 20  # small enough for its memory to be reused from piece to piece


@dataclass(frozen=True)
class TensorPlan:
    """A tensor to write. `shape` in numpy order; `produce` is called once, when its turn has come.

    It returns the packed bytes as one uint8 array, or yields them in pieces.
    """

    name: str
    shape: tuple[int, ...]
    type_name: str
    produce: Callable[[], Chunk | Iterable[Chunk]]


def copy_tensor(file: GGUFFile, name: str) -> TensorPlan:
    """The tensor as it stands in `file`, which must stay open until the writer has had it."""
    info = file.tensors[name]
    return TensorPlan(name, info.shape, info.type_name, lambda: file.raw(name))


def encode_tensor(name: str, values: npt.NDArray[np.float32], type_name: str) -> TensorPlan:
    """`values` encoded as `type_name` while they are written, some rows at a time."""

    def produce() -> Iterator[Chunk]:
        codec = codec_for(type_name)
        rows = values.reshape(-1, values.shape[-1]) if values.ndim else values.reshape(1, 1)
        step = max(1, _ENCODE_VALUES // rows.shape[1])
        for start in range(0, len(rows), step):
            yield codec.encode(rows[start : start + step])

    return TensorPlan(name, values.shape, type_name, produce)


def write_gguf(
    path: str | os.PathLike[str], metadata: Iterable[tuple[str, MetadataValue]], tensors: Iterable[TensorPlan]
) -> int:
    """Write a file and return its size in bytes; a file that was there is replaced at the very end.

    `general.alignment` in the metadata sets the alignment of tensor data. Raises FormatError when keys or tensors
    clash or do not fit the format, or a producer gives another number of bytes than its tensor has; OutputError when
    the file cannot be written. On any error nothing is left behind.
    """
    target = Path(path)
    entries = _unique_entries(metadata, target)
    plans = list(tensors)
    alignment = _alignment(entries, target)
    infos = _layout(plans, alignment, target)
    header = _header(entries, infos)
    data_start = _aligned(len(header), alignment)
    total = data_start + (_aligned(infos[-1].offset + infos[-1].n_bytes, alignment) if infos else 0)
    _check_space(target, total)

    def verify(temporary: Path) -> None:
        _verify(temporary, target, entries, infos, data_start)

    with atomic_file(target, verify) as file:
        file.write(header)
        _pad(file, data_start - len(header))
        for plan, info in zip(plans, infos, strict=True):
            _write_tensor(file, plan, info, target)
            _pad(file, _aligned(info.n_bytes, alignment) - info.n_bytes)
    return total


def _unique_entries(metadata: Iterable[tuple[str, MetadataValue]], target: Path) -> dict[str, MetadataValue]:
    entries: dict[str, MetadataValue] = {}
    for key, value in metadata:
        if key in entries or not 0 < len(key.encode()) <= 65535:
            reason = "the key occurs twice" if key in entries else "a key has 1 to 65535 bytes"
            raise FormatError(reason, where=f"{target}: key {key[:100]}")
        if key == SPLIT_COUNT and value.value > 1:
            raise FormatError(
                f"one whole file is written, not one of {value.value} shards", where=f"{target}: key {key}"
            )
        entries[key] = value
    return entries


def _alignment(entries: dict[str, MetadataValue], target: Path) -> int:
    entry = entries.get(GENERAL_ALIGNMENT)
    return DEFAULT_ALIGNMENT if entry is None else checked_alignment(entry, str(target))


def _layout(plans: list[TensorPlan], alignment: int, target: Path) -> list[TensorInfo]:
    """Sizes and offsets (from the start of the data) of all tensors, checked against the format's limits."""
    infos: list[TensorInfo] = []
    names: set[str] = set()
    offset = 0
    for plan in plans:
        try:
            n_bytes = _planned_bytes(plan, names)
        except FormatError as error:
            raise _located(error, target, plan.name) from error
        names.add(plan.name)
        infos.append(TensorInfo(plan.name, tuple(plan.shape), plan.type_name, n_bytes, offset))
        offset += _aligned(n_bytes, alignment)
    return infos


def _planned_bytes(plan: TensorPlan, names: set[str]) -> int:
    if plan.name in names:
        raise FormatError("the tensor occurs twice")
    if not 0 < len(plan.name.encode()) <= MAX_NAME_BYTES:
        raise FormatError(f"a tensor name has 1 to {MAX_NAME_BYTES} bytes")
    if plan.type_name not in TYPE_BY_NAME:
        raise FormatError(f"unknown tensor type {plan.type_name!r}")
    return tensor_bytes(tuple(plan.shape), TYPE_BY_NAME[plan.type_name])


def _header(entries: dict[str, MetadataValue], infos: list[TensorInfo]) -> bytes:
    pieces: list[bytes | memoryview] = [MAGIC, struct.pack("<IQQ", VERSION, len(infos), len(entries))]
    for key, value in entries.items():
        pieces += [encode_string(key), struct.pack("<I", value.type), value.encode()]
    for info in infos:
        axes = len(info.shape)
        type_id = TYPE_BY_NAME[info.type_name].id
        pieces.append(encode_string(info.name))
        pieces.append(struct.pack(f"<I{axes}QIQ", axes, *info.shape[::-1], type_id, info.offset))
    return b"".join(pieces)


def _write_tensor(file: BinaryIO, plan: TensorPlan, info: TensorInfo, target: Path) -> None:
    """The producer's bytes, which must be exactly as many as the tensor has."""
    written = 0
    try:
        produced = plan.produce()
        for chunk in [produced] if isinstance(produced, np.ndarray) else produced:
            if chunk.dtype != np.uint8:
                raise TypeError(f"the producer of {plan.name} must give uint8, not {chunk.dtype}")
            written += chunk.nbytes
            if written > info.n_bytes:
                break
            file.write(np.ascontiguousarray(chunk).data)
    except FormatError as error:
        raise _located(error, target, plan.name) from error
    if written != info.n_bytes:
        count = f"more than {info.n_bytes}" if written > info.n_bytes else str(written)
        raise FormatError(
            f"{count} bytes were produced for {plan.type_name} {list(info.shape)}, which has {info.n_bytes}",
            where=f"{target}: tensor {plan.name}",
        )


def _verify(
    temporary: Path, target: Path, entries: dict[str, MetadataValue], infos: list[TensorInfo], data_start: int
) -> None:
    """Reopen what was written: the same keys, and every tensor where it was meant to be."""
    meant = [(info.name, info.shape, info.type_name, data_start + info.offset) for info in infos]
    try:
        with GGUFFile.open(temporary) as file:
            found = [(info.name, info.shape, info.type_name, info.offset) for info in file.tensors.values()]
            problem = "" if list(file.metadata) == list(entries) and found == meant else "other keys or tensors"
    except FormatError as error:
        problem = error.message
    if problem:
        raise OutputError(
            f"the file does not read back as it was written: {problem}", where=str(target), hint="try another disk"
        )


def _located(error: FormatError, target: Path, tensor: str) -> FormatError:
    """The error with the tensor it is about, unless it already says where it happened."""
    return FormatError(error.message, where=error.where or f"{target}: tensor {tensor[:100]}", hint=error.hint)


def _check_space(target: Path, n_bytes: int) -> None:
    """Refuse early what the disk cannot hold: hours of work could precede the moment it is full."""
    if not target.parent.is_dir():
        return
    usage = shutil.disk_usage(target.parent)  # all zero where a file system does not say
    if usage.total and n_bytes > usage.free:
        raise OutputError(
            f"the file needs {n_bytes} bytes, the disk has {usage.free} left", where=str(target), hint="free some space"
        )


def _pad(file: BinaryIO, n_bytes: int) -> None:
    for start in range(0, n_bytes, _PADDING_BYTES):
        file.write(bytes(min(_PADDING_BYTES, n_bytes - start)))


def _aligned(position: int, alignment: int) -> int:
    return -(-position // alignment) * alignment

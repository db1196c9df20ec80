"""Parses everything in front of the tensor data of one GGUF file (v2, v3; little- and big-endian).

Arrays are measured and checked here but decoded only when someone asks for them. What comes out is consistent: every
tensor lies inside the file, on the alignment, and overlaps no other.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from mmap import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import FormatError
from entrenar_core.gguf.cursor import DAMAGED_HINT, Cursor, decode_strings
from entrenar_core.gguf.foreign import MAGIC, SNIFF_BYTES, foreign_file_error
from entrenar_core.gguf.keys import GENERAL_ALIGNMENT
from entrenar_core.gguf.tensor_info import MAX_DIMENSIONS, TensorInfo, tensor_bytes, type_by_id
from entrenar_core.gguf.values import ByteOrder, MetadataValue, ValueType, array_dtype

DEFAULT_ALIGNMENT = 32
SUPPORTED_VERSIONS = (2, 3)
_MAX_NESTING = 4
_MAX_ENTRIES = 1 << 16
_MAX_TENSORS = 1 << 20
_MAX_NESTED_ARRAYS = 1 << 16
"""Far above any real model: each of these costs a Python object much larger than its bytes in a hostile file."""
_LEAST_ENTRY_BYTES = 14  # key length 8, key 1, type 4, value 1
_LEAST_TENSOR_BYTES = 25  # name length 8, name 1, dimension count 4, type 4, offset 8
_NEWER_HINT = "the file is damaged, or newer than this program"


@dataclass(frozen=True)
class Header:
    """One file's header. Tensor offsets count from the start of the file."""

    version: int
    byte_order: ByteOrder
    alignment: int
    data_start: int
    entries: dict[str, MetadataValue]
    tensors: dict[str, TensorInfo]


def parse_header(buffer: mmap | bytes, path: str) -> Header:
    """Parse and check a whole file. Raises FormatError naming the file and the key or tensor that is wrong."""
    start = buffer[:SNIFF_BYTES]
    if not start.startswith(MAGIC):
        raise foreign_file_error(path, bytes(start))
    cursor = Cursor(buffer, path)
    cursor.position = len(MAGIC)
    cursor.need(20, "the header")
    version, byte_order = _version(bytes(buffer[4:8]), path)
    cursor = Cursor(buffer, path, byte_order)
    cursor.position = 8
    n_tensors = cursor.count("tensors", _LEAST_TENSOR_BYTES, at_most=_MAX_TENSORS)
    n_entries = cursor.count("metadata entries", _LEAST_ENTRY_BYTES, at_most=_MAX_ENTRIES)
    entries = _entries(cursor, n_entries)
    alignment = _alignment(entries, path)
    cursor.where = "tensor list"
    cursor.need(n_tensors * _LEAST_TENSOR_BYTES, f"the list of {n_tensors} tensors")
    tensors = _tensors(cursor, n_tensors)
    data_start = -(-cursor.position // alignment) * alignment
    placed = {name: replace(info, offset=data_start + info.offset) for name, info in tensors.items()}
    _check_layout(placed.values(), alignment, cursor.size, path)
    return Header(version, byte_order, alignment, data_start, entries, placed)


def _version(data: bytes, path: str) -> tuple[int, ByteOrder]:
    byte_order: ByteOrder = "<" if data[:2] != b"\0\0" else ">"
    version = int(struct.unpack(byte_order + "I", data)[0])
    if version in SUPPORTED_VERSIONS:
        return version, byte_order
    if version == 1:
        raise FormatError("GGUF version 1 is not supported", where=path, hint="convert the model again with llama.cpp")
    raise FormatError(f"unknown GGUF version {version} (versions 2 and 3 are known)", where=path, hint=_NEWER_HINT)


def _entries(cursor: Cursor, count: int) -> dict[str, MetadataValue]:
    entries: dict[str, MetadataValue] = {}
    for index in range(count):
        cursor.where = f"metadata entry {index}"
        key = cursor.name("the key")
        cursor.where = f"key {key}"
        if key in entries:
            raise cursor.error("the key occurs twice", hint="write the file again with a correct tool")
        entries[key] = _value(cursor, _value_type(cursor))
    return entries


def _value_type(cursor: Cursor) -> ValueType:
    type_id = cursor.u32("the value type")
    try:
        return ValueType(type_id)
    except ValueError as error:
        raise cursor.error(f"unknown metadata type id {type_id}", hint=_NEWER_HINT) from error


def _value(cursor: Cursor, kind: ValueType, depth: int = 0) -> MetadataValue:
    start = cursor.position
    element_type: ValueType | None = None
    value: Any = None
    decode = None
    if kind is ValueType.STRING:
        value = cursor.string_bytes("the string").decode("utf-8", "surrogateescape")
    elif kind is ValueType.ARRAY:
        element_type = _value_type(cursor)
        value, decode = _array(cursor, element_type, depth)
    else:
        value = cursor.scalar(kind)
    encoded = memoryview(cursor.buffer)[start : cursor.position] if cursor.byte_order == "<" else None
    return MetadataValue(kind, value, element_type, encoded=encoded, decode=decode)


def _array(cursor: Cursor, element_type: ValueType, depth: int) -> tuple[Any, Any]:
    """The value of an array, or None and the function that decodes it."""
    if element_type is ValueType.STRING:
        count = cursor.count("strings", 8)
        start = cursor.position
        cursor.skip_strings(count)
        return None, partial(_strings, cursor.buffer, start, cursor.position, count, cursor.byte_order)
    if element_type is ValueType.ARRAY:
        if depth == _MAX_NESTING:
            raise cursor.error(f"arrays are nested more than {_MAX_NESTING} deep")
        count = cursor.count("arrays", 12, at_most=_MAX_NESTED_ARRAYS - cursor.nested_arrays)
        cursor.nested_arrays += count
        return [_value(cursor, ValueType.ARRAY, depth + 1) for _ in range(count)], None
    return _numbers(cursor, element_type), None


def _strings(buffer: mmap | bytes, start: int, end: int, count: int, byte_order: ByteOrder) -> list[str]:
    return decode_strings(buffer[start:end], count, byte_order)


def _numbers(cursor: Cursor, element_type: ValueType) -> npt.NDArray[Any]:
    """A view of the file (a native copy when the file is big-endian)."""
    dtype = array_dtype(element_type, cursor.byte_order)
    count = cursor.count(f"{element_type.name} values", dtype.itemsize)
    start = cursor.take(count * dtype.itemsize, "the array")
    if element_type is ValueType.BOOL:
        flags = np.frombuffer(cursor.buffer, np.uint8, count, start)
        if count and flags.max() > 1:
            raise cursor.error(f"{int(flags.max())} is no boolean (0 or 1)")
    values = np.frombuffer(cursor.buffer, dtype, count, start)
    return values if cursor.byte_order == "<" else values.astype(dtype.newbyteorder("="))


def _alignment(entries: dict[str, MetadataValue], path: str) -> int:
    entry = entries.get(GENERAL_ALIGNMENT)
    if entry is None:
        return DEFAULT_ALIGNMENT
    return checked_alignment(entry, path)


def checked_alignment(entry: MetadataValue, path: str) -> int:
    """The alignment in bytes that ``general.alignment`` asks for. Raises FormatError unless uint32, a power of two."""
    if entry.type is not ValueType.UINT32 or entry.value == 0 or entry.value & (entry.value - 1):
        raise FormatError(
            f"the alignment must be a uint32 power of two, not {entry!r}",
            where=f"{path}: key {GENERAL_ALIGNMENT}",
            hint=DAMAGED_HINT,
        )
    return int(entry.value)


def _tensors(cursor: Cursor, count: int) -> dict[str, TensorInfo]:
    """The tensor list, offsets still relative to the start of the data."""
    tensors: dict[str, TensorInfo] = {}
    for index in range(count):
        cursor.where = f"tensor number {index}"
        name = cursor.name("the name")
        cursor.where = f"tensor {name}"
        if name in tensors:
            raise cursor.error("the tensor occurs twice", hint="write the file again with a correct tool")
        tensors[name] = _tensor(cursor, name)
    return tensors


def _tensor(cursor: Cursor, name: str) -> TensorInfo:
    n_dimensions = cursor.u32("the number of dimensions")
    if n_dimensions > MAX_DIMENSIONS:
        raise cursor.error(f"{n_dimensions} dimensions; GGUF allows {MAX_DIMENSIONS}")
    shape = tuple(cursor.u64("a dimension") for _ in range(n_dimensions))[::-1]
    type_id = cursor.u32("the tensor type")
    offset = cursor.u64("the tensor offset")
    try:
        ggml_type = type_by_id(type_id)
        n_bytes = tensor_bytes(shape, ggml_type)
    except FormatError as error:
        raise cursor.error(error.message, hint=error.hint or DAMAGED_HINT) from error
    return TensorInfo(name, shape, ggml_type.name, n_bytes, offset)


def _check_layout(tensors: Iterable[TensorInfo], alignment: int, file_size: int, path: str) -> None:
    """Every tensor is aligned, none overlaps another, all end inside the file."""
    ordered = sorted(tensors, key=lambda info: info.offset)
    for info in ordered:
        if info.offset % alignment:
            raise _layout_error(path, info, f"offset {info.offset} is not a multiple of the alignment {alignment}")
    for before, after in pairwise(ordered):
        if before.offset + before.n_bytes > after.offset:
            raise _layout_error(path, before, f"its data overlaps that of tensor {after.name}")
    for info in ordered:
        end = info.offset + info.n_bytes
        if end > file_size:
            expected = ordered[-1].offset + ordered[-1].n_bytes
            raise _layout_error(
                path,
                info,
                f"the file is truncated: its tensors need {expected} bytes, it has {file_size}; "
                f"this {info.type_name} tensor {list(info.shape)} ends at byte {end}",
            )


def _layout_error(path: str, info: TensorInfo, message: str) -> FormatError:
    return FormatError(message, where=f"{path}: tensor {info.name}", hint=DAMAGED_HINT)

"""Metadata values of a GGUF file with their exact type, so that a file can be rewritten without changing a byte.

A `MetadataValue` is either built from Python data (`MetadataValue.uint32(7)`) or read from a file, where it keeps the
bytes it came from: large arrays are decoded when `value` is first asked for, and rewriting copies the bytes.
Strings are UTF-8 with `surrogateescape`: tokens may hold arbitrary bytes and come back as the same bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import IntEnum
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from entrenar_core.errors import FormatError


class ValueType(IntEnum):
    """The type ids of GGUF metadata."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


SCALAR_FORMATS: dict[ValueType, str] = {
    ValueType.UINT8: "B",
    ValueType.INT8: "b",
    ValueType.UINT16: "H",
    ValueType.INT16: "h",
    ValueType.UINT32: "I",
    ValueType.INT32: "i",
    ValueType.FLOAT32: "f",
    ValueType.BOOL: "?",
    ValueType.UINT64: "Q",
    ValueType.INT64: "q",
    ValueType.FLOAT64: "d",
}
"""`struct` letter of each fixed-size type."""

_DTYPES: dict[ValueType, str] = {
    ValueType.UINT8: "u1",
    ValueType.INT8: "i1",
    ValueType.UINT16: "u2",
    ValueType.INT16: "i2",
    ValueType.UINT32: "u4",
    ValueType.INT32: "i4",
    ValueType.FLOAT32: "f4",
    ValueType.BOOL: "?",
    ValueType.UINT64: "u8",
    ValueType.INT64: "i8",
    ValueType.FLOAT64: "f8",
}

ByteOrder = Literal["<", ">"]
Scalar = str | int | float | bool
_Bool = bool  # inside MetadataValue the name `bool` is its constructor


def array_dtype(element_type: ValueType, byte_order: ByteOrder = "<") -> np.dtype[Any]:
    """The numpy type of a metadata array; `byte_order` is that of the file, ``<`` or ``>``."""
    return np.dtype(_DTYPES[element_type]).newbyteorder(byte_order)


class MetadataValue:
    """One metadata value: its GGUF type, its Python value and, when it was read from a file, its bytes.

    `value` is a str, int, float or bool; for an array a numpy array (numbers, bools), a list of str, or a list of
    MetadataValue (arrays of arrays). Arrays are not to be changed in place.
    """

    __slots__ = ("_decode", "_encoded", "_value", "element_type", "type")

    def __init__(
        self,
        value_type: ValueType,
        value: Any,
        element_type: ValueType | None = None,
        *,
        encoded: memoryview | None = None,
        decode: Callable[[], Any] | None = None,
    ) -> None:
        """Use the named constructors; this one does not check anything.

        `encoded`: the little-endian bytes of the value as they stand in a file (for an array: element type and count
        included). `decode`: computes `value` when it is first asked for.
        """
        self.type = value_type
        self.element_type = element_type
        self._value = value
        self._encoded = encoded
        self._decode = decode

    @property
    def value(self) -> Any:
        if self._decode is not None:
            self._value = self._decode()
            self._decode = None
        return self._value

    @property
    def plain(self) -> Any:
        """`value`, with arrays of arrays as plain lists."""
        if self.element_type is ValueType.ARRAY:
            return [item.plain for item in self.value]
        return self.value

    def encode(self) -> bytes | memoryview:
        """The little-endian bytes of the value, without the type id in front of it."""
        if self._encoded is not None:
            return self._encoded
        if self.type is ValueType.STRING:
            return encode_string(self.value)
        if self.type is not ValueType.ARRAY:
            return _pack(self.type, self.value)
        assert self.element_type is not None
        head = struct.pack("<IQ", self.element_type, len(self.value))
        if self.element_type is ValueType.STRING:
            return head + b"".join(map(encode_string, self.value))
        if self.element_type is ValueType.ARRAY:
            return head + b"".join(bytes(item.encode()) for item in self.value)
        numbers: bytes = self.value.astype(array_dtype(self.element_type), copy=False).tobytes()
        return head + numbers

    def __eq__(self, other: object) -> _Bool:
        if not isinstance(other, MetadataValue):
            return NotImplemented
        if (self.type, self.element_type) != (other.type, other.element_type):
            return False
        return bytes(self.encode()) == bytes(other.encode())

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        if self.type is not ValueType.ARRAY:
            return f"MetadataValue({self.type.name}, {self.value!r})"
        assert self.element_type is not None
        return f"MetadataValue(ARRAY of {self.element_type.name}, {len(self.value)} elements)"

    @classmethod
    def scalar(cls, value_type: ValueType, value: Scalar) -> MetadataValue:
        """Any type but ARRAY. Raises FormatError when the value does not fit the type."""
        if value_type is ValueType.STRING:
            return cls.string(_instance(value, str, value_type))
        _pack(value_type, value)
        return cls(value_type, value)

    @classmethod
    def string(cls, value: str) -> MetadataValue:
        encode_string(value)
        return cls(ValueType.STRING, value)

    @classmethod
    def uint8(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.UINT8, value)

    @classmethod
    def int8(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.INT8, value)

    @classmethod
    def uint16(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.UINT16, value)

    @classmethod
    def int16(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.INT16, value)

    @classmethod
    def uint32(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.UINT32, value)

    @classmethod
    def int32(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.INT32, value)

    @classmethod
    def uint64(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.UINT64, value)

    @classmethod
    def int64(cls, value: int) -> MetadataValue:
        return cls.scalar(ValueType.INT64, value)

    @classmethod
    def float32(cls, value: float) -> MetadataValue:
        """Rounded to single precision; `value` is what a reader of the file will see."""
        rounded = struct.unpack("<f", _pack(ValueType.FLOAT32, value))[0]
        return cls(ValueType.FLOAT32, rounded)

    @classmethod
    def float64(cls, value: float) -> MetadataValue:
        return cls.scalar(ValueType.FLOAT64, float(value))

    @classmethod
    def array(cls, element_type: ValueType, values: Sequence[Any] | npt.NDArray[Any]) -> MetadataValue:
        """A list of strings, numbers, bools or (element type ARRAY) of MetadataValue arrays.

        Raises FormatError when an element does not fit `element_type`.
        """
        if element_type is ValueType.STRING:
            return cls(ValueType.ARRAY, _checked_strings(list(values)), element_type)
        if element_type is ValueType.ARRAY:
            if not all(isinstance(item, MetadataValue) and item.type is ValueType.ARRAY for item in values):
                raise FormatError("an array of arrays holds MetadataValue arrays")
            return cls(ValueType.ARRAY, list(values), element_type)
        return cls(ValueType.ARRAY, _number_array(element_type, values), element_type)

    @classmethod
    def bool(cls, value: _Bool) -> MetadataValue:
        return cls.scalar(ValueType.BOOL, value)


def replaced_entries(
    entries: Iterable[tuple[str, MetadataValue]], changed: Mapping[str, MetadataValue]
) -> list[tuple[str, MetadataValue]]:
    """The entries with some keys set: those that are there in their place, others at the end."""
    kept = [(key, changed.get(key, value)) for key, value in entries]
    present = {key for key, _ in kept}
    return [*kept, *((key, value) for key, value in changed.items() if key not in present)]


def encode_string(value: str) -> bytes:
    """A GGUF string: length in bytes (uint64) and UTF-8, escaped bytes (`surrogateescape`) restored."""
    try:
        data: bytes = _instance(value, str, ValueType.STRING).encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise FormatError(
            f"{value!r} cannot be written as UTF-8", hint="it holds half of a surrogate pair: repair the text"
        ) from error
    return struct.pack("<Q", len(data)) + data


def _checked_strings(values: list[Any]) -> list[str]:
    """The values, when all can be written: first as a whole, because vocabularies are long."""
    try:
        "".join(values).encode("utf-8", "surrogateescape")
    except (TypeError, UnicodeEncodeError):
        for item in values:  # this one names what is wrong
            encode_string(item)
    return values


def _pack(value_type: ValueType, value: Any) -> bytes:
    if value_type is ValueType.BOOL:
        _instance(value, bool, value_type)
    try:
        return struct.pack("<" + SCALAR_FORMATS[value_type], value)
    except (struct.error, OverflowError, TypeError) as error:
        raise FormatError(f"{value!r} does not fit the metadata type {value_type.name}") from error


def _instance(value: Any, kind: type, value_type: ValueType) -> Any:
    if not isinstance(value, kind):
        raise FormatError(f"{value!r} does not fit the metadata type {value_type.name}")
    return value


def _number_array(element_type: ValueType, values: Sequence[Any] | npt.NDArray[Any]) -> npt.NDArray[Any]:
    """`values` as a flat array of the element type, without wrapping, truncating or guessing."""
    dtype = array_dtype(element_type)
    source = np.asarray(values)
    if source.ndim != 1:
        raise FormatError(f"a metadata array has one axis, not {source.ndim}", hint="nest arrays with ValueType.ARRAY")
    if source.size == 0:
        return np.empty(0, dtype)
    try:
        with np.errstate(over="ignore"):
            result = source.astype(dtype)
    except (ValueError, TypeError, OverflowError) as error:
        raise FormatError(f"values of {source.dtype} do not fit an array of {element_type.name}") from error
    is_bool = element_type is ValueType.BOOL
    kinds_agree = (source.dtype.kind == "b") == is_bool and source.dtype.kind in "biuf"
    same = np.array_equal(result, source) if dtype.kind != "f" else np.array_equal(np.isinf(result), np.isinf(source))
    if not kinds_agree or not same:
        raise FormatError(f"values of {source.dtype} do not fit an array of {element_type.name}")
    return result

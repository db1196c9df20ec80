"""Reads the little pieces a GGUF header is made of, never past the end of the file.

Every length and count is compared with the bytes that are left before it is used, so that a damaged or hostile file
costs no more time and memory than its own size.
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import Any

from entrenar_core.errors import FormatError
from entrenar_core.gguf.values import SCALAR_FORMATS, ByteOrder, ValueType

DAMAGED_HINT = "the file is damaged or was not copied to its end: copy or download it again"


class Cursor:
    """A position in a mapped file. `where` names what is being read and goes into errors."""

    def __init__(self, buffer: mmap | bytes, path: str, byte_order: ByteOrder = "<") -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.path = path
        self.byte_order = byte_order
        self.position = 0
        self.where = "header"
        self.nested_arrays = 0
        self._scalars = {kind: struct.Struct(byte_order + letter) for kind, letter in SCALAR_FORMATS.items()}
        self._u32 = self._scalars[ValueType.UINT32]
        self._u64 = self._scalars[ValueType.UINT64]

    @property
    def remaining(self) -> int:
        return self.size - self.position

    def error(self, message: str, hint: str = DAMAGED_HINT) -> FormatError:
        return FormatError(message, where=f"{self.path}: {self.where}", hint=hint)

    def need(self, n_bytes: int, what: str) -> None:
        """Raise FormatError unless `n_bytes` are left."""
        if n_bytes > self.remaining:
            raise self.error(
                f"{what} at byte {self.position} needs {n_bytes} bytes (a file of at least "
                f"{self.position + n_bytes} bytes), but the file has {self.size} bytes"
            )

    def take(self, n_bytes: int, what: str) -> int:
        """Skip `n_bytes` and return where they start."""
        self.need(n_bytes, what)
        start = self.position
        self.position += n_bytes
        return start

    def u32(self, what: str) -> int:
        return int(self._u32.unpack_from(self.buffer, self.take(4, what))[0])

    def u64(self, what: str) -> int:
        return int(self._u64.unpack_from(self.buffer, self.take(8, what))[0])

    def scalar(self, kind: ValueType) -> Any:
        unpack = self._scalars[kind]
        start = self.take(unpack.size, "a value")
        if kind is ValueType.BOOL and self.buffer[start] > 1:
            raise self.error(f"{self.buffer[start]} is no boolean (0 or 1)")
        return unpack.unpack_from(self.buffer, start)[0]

    def string_bytes(self, what: str, at_most: int | None = None) -> bytes:
        length = self.u64(f"the length of {what}")
        if at_most is not None and length > at_most:
            raise self.error(f"{what} at byte {self.position} claims {length} bytes; the format allows {at_most}")
        start = self.take(length, what)
        return self.buffer[start : self.position]

    def name(self, what: str) -> str:
        """A key or tensor name: not empty, at most 65535 bytes, valid UTF-8."""
        data = self.string_bytes(what, at_most=65535)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.error(f"{what} is not UTF-8: {data[:40]!r}") from error
        if not text:
            raise self.error(f"{what} is empty")
        return text

    def count(self, what: str, least_bytes: int, at_most: int | None = None) -> int:
        """A uint64 count of things that take at least `least_bytes` each; FormatError when they cannot fit."""
        count = self.u64(f"the number of {what}")
        if count * least_bytes > self.remaining:
            raise self.error(
                f"{count} {what} do not fit into the {self.remaining} bytes that follow in a file of {self.size} bytes"
            )
        if at_most is not None and count > at_most:
            raise self.error(f"{count} {what} are more than the {at_most} that entrenar reads")
        return count

    def skip_strings(self, count: int) -> None:
        """Walk over `count` strings: one unpack and one addition each, because there can be 300,000 of them."""
        unpack_from, buffer, position, index = self._u64.unpack_from, self.buffer, self.position, 0
        try:
            for index in range(count):  # noqa: B007 - the error below names it
                position += 8 + unpack_from(buffer, position)[0]
        except (struct.error, OverflowError) as error:
            raise self.error(
                f"string {index} of {count} lies behind the end of the file ({self.size} bytes)"
            ) from error
        if position > self.size:
            raise self.error(f"string {index} of {count} ends at byte {position}; the file has {self.size} bytes")
        self.position = position


def decode_strings(data: bytes, count: int, byte_order: ByteOrder) -> list[str]:
    """`count` GGUF strings in a row, already known to fit `data`; bytes that are not UTF-8 become surrogates."""
    unpack_from = struct.Struct(byte_order + "Q").unpack_from
    strings: list[str] = []
    append = strings.append
    end = 0
    for _ in range(count):
        start = end + 8
        end = start + unpack_from(data, end)[0]
        append(data[start:end].decode("utf-8", "surrogateescape"))
    return strings

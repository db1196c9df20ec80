"""Cuts JSON text into blocks of whole objects, one a line, that Arrow can parse by themselves.

JSON lines are cut at line ends; the objects of an array (`[{...}, {...}]`, often printed over many lines) are cut out
one by one and put on lines of their own. Either way memory holds one block, whatever the size of the file.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from entrenar_core.data.formats.kinds import COMPRESSION_OF_SUFFIX
from entrenar_core.errors import DataError

BLOCK_BYTES = 1 << 22
"""A block is as large as that or as its only object."""

_BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\r\n]*")
_NEAR_END = 32
"""An object that goes wrong this close to the end of what is read so far may only be cut."""


@dataclass(frozen=True)
class Block:
    """Whole objects. `offset`, `size`: their bytes in the file; `first`: the first line or item, counted from 1."""

    text: bytes
    offset: int
    size: int
    first: int


def open_bytes(path: Path) -> BinaryIO:
    """The file's bytes, decompressed as its name says."""
    compression = COMPRESSION_OF_SUFFIX.get(path.suffix.lower())
    if compression is None:
        return path.open("rb")
    return io.BufferedReader(pa.input_stream(str(path), compression=compression))


def is_array(path: Path) -> bool:
    """Whether the text begins with a bracket; JSON lines begin with a brace."""
    with open_bytes(path) as file:
        head: bytes = file.read(4096)
        return head.removeprefix(_BOM).lstrip().startswith(b"[")


def line_blocks(path: Path) -> Iterator[Block]:
    """The blocks of a file of JSON lines, without those that are blank."""
    with open_bytes(path) as file:
        offset, first = 0, 1
        while text := file.read(BLOCK_BYTES):
            text += file.readline()
            end = offset + len(text)
            if offset == 0:
                text = text.removeprefix(_BOM)
            if text and not text.isspace():
                yield Block(text, end - len(text), len(text), first)
            offset = end
            first += text.count(b"\n")


def count_lines(text: bytes) -> int:
    """Lines that are not blank."""
    return sum(1 for line in text.split(b"\n") if line and not line.isspace())


def item_blocks(path: Path) -> Iterator[Block]:
    """The items of a JSON array as blocks of lines.

    Raises:
        DataError: the text is not a JSON array.
    """
    with open_bytes(path) as file:
        items: list[str] = []
        size, first = 0, 1
        for item in _ArrayItems(path, file):
            items.append(item)
            size += len(item)
            if size >= BLOCK_BYTES:
                yield Block("\n".join(items).encode(), 0, 0, first)
                first += len(items)
                items, size = [], 0
        if items:
            yield Block("\n".join(items).encode(), 0, 0, first)


def reason_of(error: json.JSONDecodeError) -> str:
    """The parser's reason as part of a sentence, without the place."""
    return error.msg[:1].lower() + error.msg[1:].removesuffix(" starting at")


class _ArrayItems:
    """Iterates over the texts of the items of an array, each without line breaks."""

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self.path = path
        self.file = file
        self.decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self.parse = json.JSONDecoder().raw_decode
        self.text = ""
        self.place = 0
        self.line = 1
        self.n_items = 0
        self.at_end = False

    def __iter__(self) -> Iterator[str]:
        self._next_sign()
        self.place += 1  # the bracket
        while not self._closed():
            yield self._item()
            self.n_items += 1

    def _closed(self) -> bool:
        """Step over what stands before an item; true after the last one."""
        sign = self._next_sign()
        if sign == "," and self.n_items:
            self.place += 1
            sign = self._next_sign()
            if sign == "]":
                raise self._broken("a comma stands before the closing bracket")
        elif sign != "]" and self.n_items:
            raise self._broken(f"a comma is missing before {sign}" if sign else "the closing bracket is missing")
        if sign != "]":
            return False
        self.place += 1
        if self._next_sign():
            raise self._broken("the array has ended before")
        return True

    def _item(self) -> str:
        while True:
            try:
                _, end = self.parse(self.text, self.place)
            except json.JSONDecodeError as error:
                may_be_cut = error.msg.startswith("Unterminated string") or self._is_near_end(error.pos)
                if not may_be_cut or not self._read_on():
                    raise self._broken(reason_of(error), error.pos) from error
                continue
            if not self._is_near_end(end) or not self._read_on():
                item = self.text[self.place : end]
                self.place = end
                return item.replace("\r", " ").replace("\n", " ")

    def _is_near_end(self, place: int) -> bool:
        return place >= len(self.text) - _NEAR_END

    def _next_sign(self) -> str:
        """Go to the next sign that is not blank and return it; empty at the end of the file."""
        while True:
            match = _BLANKS.match(self.text, self.place)
            self.place = match.end() if match else self.place
            if self.place < len(self.text) or not self._read_on():
                return self.text[self.place : self.place + 1]

    def _read_on(self) -> bool:
        """Read as much again as is waiting, so that a large item costs little more than its length."""
        if self.at_end:
            return False
        read = self.file.read(max(BLOCK_BYTES, len(self.text) - self.place))
        self.at_end = not read
        self.line += self.text.count("\n", 0, self.place)
        try:
            self.text = self.text[self.place :] + self.decode(read, self.at_end)
        except UnicodeDecodeError as error:
            raise DataError(
                f"the text is not UTF-8, near item {self.n_items + 1} of the array",
                where=str(self.path),
                hint="save the file as UTF-8",
            ) from error
        self.place = 0
        return True

    def _broken(self, reason: str, place: int | None = None) -> DataError:
        line = self.line + self.text.count("\n", 0, self.place if place is None else place)
        return DataError(
            f"line {line} is not JSON (item {self.n_items + 1} of the array): {reason}",
            where=str(self.path),
            hint="correct this line; if the end of the file is missing, copy or download it again",
        )

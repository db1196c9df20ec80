"""Finds the line of a CSV file that is wrong, and says how. Arrow counts rows, people count lines."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from entrenar_core.data.broken import shown
from entrenar_core.data.formats.json_blocks import open_bytes
from entrenar_core.data.formats.kinds import is_compressed
from entrenar_core.errors import DataError

MOST_WORDS = 8
"""Words that the name of a column may have."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_YEAR = re.compile(r"(19|20)\d\d")


@dataclass(frozen=True)
class WrongRow:
    """A row that has not as many cells as the header."""

    expected: int
    found: int
    text: str


def read_header(path: Path, delimiter: str) -> list[str]:
    """The names in the first line that is not blank.

    Raises:
        DataError: there is none, or it is not UTF-8.
    """
    with open_bytes(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
        try:
            for row in csv.reader(text, delimiter=delimiter):
                if row:
                    return row
        except csv.Error as error:
            raise DataError(f"the header cannot be read: {error}", where=str(path)) from error
        except UnicodeDecodeError as error:
            raise not_utf8(path) from error
    raise DataError("the file has no header and no rows", where=str(path), hint="the first line names the columns")


def check_header(path: Path, names: Sequence[str]) -> None:
    """Refuse names that come twice or read like data: the file has no header."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"two columns have the same name: {', '.join(map(repr, twice))}",
            where=f"{path}, line 1",
            hint="rename one of them; if this line is data, add a first line that names the columns",
        )
    like_data = _like_data(names)
    if like_data is not None:
        raise DataError(
            f"the first line has to name the columns, but {shown(like_data)!r} reads like data",
            where=f"{path}, line 1",
            hint="add a line above it such as text,label; if it is a name after all, choose a short one with letters",
        )


def _like_data(names: Sequence[str]) -> str | None:
    """A number or a sentence among the names. Years, and the numbers that pandas gives to columns, are names."""
    numbers = [name for name in names if _NUMBER.fullmatch(name.strip()) and not _YEAR.fullmatch(name.strip())]
    sentences = [name for name in names if len(name.split()) > MOST_WORDS]
    return next(iter(sentences if _are_places(names) else [*numbers, *sentences]), None)


def _are_places(names: Sequence[str]) -> bool:
    """Whether these are 0, 1, 2 ..., maybe after the nameless column of an index."""
    numbered = names[1:] if names[0] == "" else names
    return len(numbered) > 1 and list(numbered) == [str(place) for place in range(len(numbered))]


def explain_rows(path: Path, delimiter: str, wrong: WrongRow | None, reason: str) -> DataError:
    """The error for a file that Arrow cannot parse.

    Args:
        wrong: the first row with too many or too few cells.
        reason: what Arrow says.
    """
    if "utf8" in reason.lower():
        return not_utf8(path)
    if wrong is None:
        return DataError(f"the CSV file cannot be read: {reason.splitlines()[0]}", where=str(path))
    sign = "a tab" if delimiter == "\t" else repr(delimiter)
    if wrong.found > wrong.expected:
        hint = f'put text that contains {sign} into double quotes: "like{delimiter} this"'
    else:
        hint = f"add what is missing: cells are divided by {sign}, and an empty cell still needs its delimiter"
    return DataError(
        f"this line has {_cells(wrong.found)}, but the header has {wrong.expected}: {shown(wrong.text)}",
        where=f"{path}, line {_line_of(path, wrong.text)}",
        hint=hint,
    )


def not_utf8(path: Path) -> DataError:
    """The error for text in another encoding, with the first line that shows it."""
    for number, line in _lines(path):
        try:
            line.decode()
        except UnicodeDecodeError as error:
            byte = line[error.start : error.start + 1]
            return DataError(
                f"the text is not UTF-8: {byte!r} at byte {error.start + 1}",
                where=f"{path}, line {number}",
                hint=f"save the file as UTF-8; Excel calls it 'CSV UTF-8'; or: iconv -f WINDOWS-1252 -t UTF-8 {path}",
            )
    return DataError("the text is not UTF-8", where=str(path), hint="save the file as UTF-8")


def check_last_quote(path: Path, last_cell: str | None, delimiter: str) -> None:
    """Refuse a file whose last cell begins with a quote that is never closed: it has swallowed the rows that follow.

    Args:
        last_cell: the last cell of the last row, as Arrow reads it, which takes the end of the file for the quote.
    """
    if last_cell is None or is_compressed(path):
        return
    end = last_cell.replace('"', '""').encode()
    starts = [sign + b'"' + end for sign in (delimiter.encode(), b"\n")]
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - len(end) - 2))
        tail = file.read()
    if tail in starts:
        lines = sum(1 for _ in _lines(path))
        opened = lines - max(1, len(last_cell.splitlines())) + 1
        raise DataError(
            f'a double quote is opened and never closed: "{shown(last_cell)}',
            where=f"{path}, line {opened}",
            hint="close it; if the end of the file is missing, copy or download it again",
        )


def _line_of(path: Path, row: str) -> int:
    """The first line that reads like the row; rows that read alike are equally wrong."""
    first = row.splitlines()[0].encode() if row else b""
    for number, line in _lines(path):
        if line.rstrip(b"\r\n") == first:
            return number
    return 1


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with open_bytes(path) as file:
        yield from enumerate(file, 1)


def _cells(count: int) -> str:
    return "1 cell" if count == 1 else f"{count} cells"

"""CSV and TSV with a header, both possibly compressed.

Every cell is read as text, and the whole file decides the type of a column when it is opened: numbers, true/false,
dates and times, else text. Numbers that are written with leading zeros ("007") are text, because the zeros mean
something. An empty cell is null, an empty text in quotes is text; words for nothing (NA, null ...) are null only in a
column that is otherwise numbers or times. Values in quotes may hold line breaks. A CSV whose header has semicolons,
tabs or bars and no comma is cut at those.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
from pyarrow import csv as arrow_csv

from entrenar_core.data.broken import explained
from entrenar_core.data.formats.base import Part, conformed, pieces
from entrenar_core.data.formats.csv_mistakes import (
    WrongRow,
    check_header,
    check_last_quote,
    explain_rows,
    read_header,
)
from entrenar_core.data.formats.csv_types import TypeGuess, converted
from entrenar_core.data.formats.json_blocks import open_bytes
from entrenar_core.data.formats.kinds import Format
from entrenar_core.errors import DataError

BLOCK_BYTES = (1 << 20, 1 << 24, 1 << 28)
"""A row has to fit into a block; the larger ones are tried when it does not."""

_TAB_SUFFIXES = (".tsv", ".tab")


class CsvFile:
    """An opened CSV file; its one part is the file, since nobody knows where rows begin but by reading."""

    def __init__(self, path: Path) -> None:
        """Read the file for its rows and types.

        Raises:
            DataError: the header or a row is broken, or the text is not UTF-8.
        """
        self.path = path
        with explained(path, Format.CSV):
            self._delimiter, self._names = _layout(path)
            for self._block_bytes in BLOCK_BYTES:
                try:
                    self.schema, n_rows = self._learn()
                    break
                except _RowTooLongError as error:
                    if self._block_bytes == BLOCK_BYTES[-1]:
                        raise DataError(
                            f"a row is longer than {BLOCK_BYTES[-1] >> 20} MiB; is a closing quote missing?",
                            where=str(path),
                        ) from error
            self.parts = [Part(n_rows, path.stat().st_size)]

    def read(self, part: int, fields: pa.Schema) -> Iterator[pa.RecordBatch]:
        own = pa.schema([self.schema.field(name) for name in fields.names])
        with explained(self.path, Format.CSV):
            for texts in self._texts(fields.names):
                for batch in pieces([converted(texts, own)]):
                    yield conformed(batch, fields)

    def _learn(self) -> tuple[pa.Schema, int]:
        guesses = [TypeGuess() for _ in self._names]
        n_rows, last = 0, None
        for texts in self._texts(self._names):
            n_rows += texts.num_rows
            for guess, column in zip(guesses, texts.columns, strict=True):
                guess.learn(column)
            last = texts if texts.num_rows else last
        if last is not None:
            check_last_quote(self.path, last.column(last.num_columns - 1)[-1].as_py(), self._delimiter)
        types = [guess.type for guess in guesses]
        return pa.schema(list(zip(self._names, types, strict=True))), n_rows

    def _texts(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The columns as text, block by block."""
        wrong: list[WrongRow] = []

        def note(row: arrow_csv.InvalidRow) -> str:
            wrong.append(WrongRow(row.expected_columns, row.actual_columns, row.text))
            return "error"

        try:
            with open_bytes(self.path) as file:
                yield from arrow_csv.open_csv(
                    file,
                    read_options=arrow_csv.ReadOptions(block_size=self._block_bytes),
                    parse_options=arrow_csv.ParseOptions(
                        delimiter=self._delimiter, newlines_in_values=True, invalid_row_handler=note
                    ),
                    convert_options=arrow_csv.ConvertOptions(
                        column_types={name: pa.string() for name in self._names},
                        include_columns=list(names),
                        null_values=[""],
                        strings_can_be_null=True,
                        quoted_strings_can_be_null=False,
                    ),
                )
        except pa.ArrowInvalid as error:
            if "straddles" in str(error):
                raise _RowTooLongError from error
            raise explain_rows(self.path, self._delimiter, wrong[0] if wrong else None, str(error)) from error


class _RowTooLongError(Exception):
    """A row does not fit into a block."""


def _layout(path: Path) -> tuple[str, list[str]]:
    """Delimiter and column names."""
    is_tabbed = any(suffix.lower() in _TAB_SUFFIXES for suffix in path.suffixes)
    names = read_header(path, "\t" if is_tabbed else ",")
    delimiter = "\t" if is_tabbed else ","
    if not is_tabbed and len(names) == 1:
        for other in (";", "\t", "|"):
            if other in names[0]:
                delimiter, names = other, read_header(path, other)
                break
    check_header(path, names)
    return delimiter, names

"""The formats of data files, a module each; `open_file` is the door."""

from __future__ import annotations

from pathlib import Path

from entrenar_core.data.broken import check_content, explained
from entrenar_core.data.formats.base import DataFile
from entrenar_core.data.formats.kinds import Format
from entrenar_core.errors import DataError


def open_file(path: Path, format_: Format) -> DataFile:
    """Open a file for its schema and row counts.

    Raises:
        DataError: it cannot be read, is not of the format, is broken, or has two columns of one name.
    """
    with explained(path, format_):
        check_content(path, format_)
    opened = _open(path, format_)
    names = opened.schema.names
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"two columns have the same name: {', '.join(map(repr, twice))}", where=str(path), hint="rename one of them"
        )
    return opened


def _open(path: Path, format_: Format) -> DataFile:
    """Each format imports its part of Arrow only when it is used."""
    match format_:
        case Format.PARQUET:
            from entrenar_core.data.formats.parquet import ParquetFile

            return ParquetFile(path)
        case Format.JSON:
            from entrenar_core.data.formats.json import JsonFile

            return JsonFile(path)
        case Format.CSV:
            from entrenar_core.data.formats.csv import CsvFile

            return CsvFile(path)
        case Format.ARROW:
            from entrenar_core.data.formats.arrow import ArrowFile

            return ArrowFile(path)

"""The data formats that can be read, and how a file's name tells its format."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path


class Format(StrEnum):
    """A format; the value is its name in messages."""

    PARQUET = "parquet"
    JSON = "JSON"
    CSV = "CSV"
    ARROW = "Arrow"


FORMAT_OF_SUFFIX = {
    ".parquet": Format.PARQUET,
    ".pq": Format.PARQUET,
    ".jsonl": Format.JSON,
    ".ndjson": Format.JSON,
    ".json": Format.JSON,
    ".csv": Format.CSV,
    ".tsv": Format.CSV,
    ".tab": Format.CSV,
    ".arrow": Format.ARROW,
    ".ipc": Format.ARROW,
    ".feather": Format.ARROW,
}
"""By the last suffix in lower case."""

COMPRESSION_OF_SUFFIX = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}
"""Arrow's names. Allowed after the suffix of a text format; parquet and Arrow files are compressed inside."""

TEXT_FORMATS = (Format.JSON, Format.CSV)

KNOWN = ".parquet, .jsonl, .json, .csv, .tsv (the text formats also with .gz or .zst), .arrow and .feather"
"""What messages list."""

_OTHER_SUFFIXES = {
    ".txt": "plain text does not say where a document ends: store one JSON object per line, "
    '{"text": "..."}, in a .jsonl file',
    ".xlsx": "save the sheet as CSV (UTF-8) in your spreadsheet program",
    ".xls": "save the sheet as CSV (UTF-8) in your spreadsheet program",
    ".ods": "save the sheet as CSV (UTF-8) in your spreadsheet program",
    ".zip": "unpack it, and name the file or folder inside",
    ".tar": "unpack it, and name the file or folder inside",
    ".tgz": "unpack it, and name the file or folder inside",
    ".7z": "unpack it, and name the file or folder inside",
    ".pkl": "pickles can run code and are never opened: write the data as parquet, df.to_parquet('data.parquet')",
    ".pickle": "pickles can run code and are never opened: write the data as parquet, df.to_parquet('data.parquet')",
    ".db": "export the table as CSV",
    ".sqlite": "export the table as CSV",
    ".gguf": "this is a model: it belongs to model.path",
    ".md": "store the texts as one JSON object per line in a .jsonl file",
    ".yaml": "this looks like a configuration, not data",
    ".yml": "this looks like a configuration, not data",
}


def format_of(path: Path) -> Format | None:
    """The format that a file's name promises; None when it promises none that is known."""
    suffix = path.suffix.lower()
    if suffix not in COMPRESSION_OF_SUFFIX:
        return FORMAT_OF_SUFFIX.get(suffix)
    inner = FORMAT_OF_SUFFIX.get(Path(path.stem).suffix.lower())
    return inner if inner in TEXT_FORMATS else None


def is_compressed(path: Path) -> bool:
    return path.suffix.lower() in COMPRESSION_OF_SUFFIX


def advice_for_suffix(path: Path) -> str:
    """What to do with a file whose name promises no known format."""
    suffix = path.suffix.lower()
    if suffix in COMPRESSION_OF_SUFFIX and Path(path.stem).suffix.lower() in FORMAT_OF_SUFFIX:
        return "this format is compressed inside: unpack the file first"
    known = f"known are {KNOWN}"
    return f"{_OTHER_SUFFIXES[suffix]}; {known}" if suffix in _OTHER_SUFFIXES else known

"""Rows of plain values as a file: JSON lines, or parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from entrenar_core.errors import OutputError
from entrenar_core.gguf.atomic import atomic_file

SUFFIXES = (".jsonl", ".parquet")


def check_samples_name(path: Path) -> None:
    """Raises OutputError for a name that promises another format."""
    if path.suffix.lower() not in SUFFIXES:
        raise OutputError(
            "samples are written as JSON lines or parquet", where=str(path), hint="name a .jsonl or .parquet file"
        )


def write_samples(path: Path, rows: Sequence[Mapping[str, str | bool | None]]) -> int:
    """Write rows that have the same keys; the suffix chooses the format. Returns the size in bytes.

    Raises:
        OutputError: the name promises another format, or the file cannot be written.
    """
    check_samples_name(path)
    with atomic_file(path) as file:
        if path.suffix.lower() == ".parquet":
            pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), file)
        else:
            for row in rows:
                file.write(json.dumps(dict(row), ensure_ascii=False).encode() + b"\n")
    return path.stat().st_size

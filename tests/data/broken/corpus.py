"""How a case is made: a function that writes broken data into a folder and returns the path to open."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Case = Callable[[Path], Path | str]
CASES: dict[str, Case] = {}


def case(make: Case) -> Case:
    CASES[make.__name__] = make
    return make


def parquet(path: Path, columns: dict[str, Any] | None = None, **options: Any) -> Path:
    pq.write_table(pa.table(columns or {"text": [f"text {i}" for i in range(2000)]}), path, **options)
    return path


def text(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


def raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def damaged(path: Path, start: int, size: int) -> Path:
    data = bytearray(path.read_bytes())
    data[start : start + size] = bytes(value ^ 0x5A for value in data[start : start + size])
    return raw(path, bytes(data))

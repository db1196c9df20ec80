"""The raw texts of a data set, for training a tokenizer on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from entrenar_core.config.data import Data
from entrenar_core.data.columns import ColumnRequest, choose_columns
from entrenar_core.data.parquet_source import ParquetSource


def iterate_texts(path: str | Path, data: Data) -> Iterator[str]:
    """Every non-empty text of the columns that training would use, in the order of the file.

    Raises:
        DataError: as `load_examples`.
    """
    source = ParquetSource.open(Path(path))
    request = ColumnRequest(data.text, data.prompt, data.completion, data.auto_infer_types)
    columns = choose_columns(source.columns, request, where=str(path))
    for batch in source.read(columns.names):
        for row in zip(*batch, strict=True):
            yield from (text for text in row if text)

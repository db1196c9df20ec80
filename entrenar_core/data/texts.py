"""The raw texts of a data set, for training a tokenizer on it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from entrenar_core.config.data import Data
from entrenar_core.data.opening import open_sources
from entrenar_core.data.row_encoders import each_row


def iterate_texts(data: Data) -> Iterator[str]:
    """Every text that is not empty in the columns that training would use, in the order of the sources.

    Raises:
        DataError: as `open_sources`.
    """
    for one in open_sources(data, data.train):
        for rows, _ in one.read():
            for row in each_row(rows):
                yield from _texts_in(list(row.values()))


def _texts_in(value: Any) -> Iterator[str]:
    """The texts in a value that may be nested, as messages are; their keys and roles among them do no harm."""
    if isinstance(value, str):
        if value:
            yield value
    elif isinstance(value, dict):
        yield from _texts_in(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts_in(item)

"""Rows of tokens to calibrate on, from any data that a model can be trained on.

What is a target in training does not matter: prompts count like answers, and a labelled text counts without its label.
Rows are taken from the beginning of each source in equal shares; short documents share a row and do not see each
other, long ones are cut into windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from entrenar_core.data.batch import Batch
from entrenar_core.data.encode import ExampleBuilder
from entrenar_core.data.encoders import Encoding
from entrenar_core.data.load import reasons
from entrenar_core.data.opening import OpenedSource
from entrenar_core.data.pack import fill, pack_best_fit
from entrenar_core.data.row_encoders import EncodedRow
from entrenar_core.data.task_columns import TARGET_ROLES, Task
from entrenar_core.errors import DataError

BATCH_TOKENS = 2048
"""Tokens of one forward pass, about: enough that decoding the matrices takes little of the time."""


@dataclass(frozen=True)
class TokenRows:
    """Batches of `count` rows in all; of the `seen` rows of the data some were `refused`, by reason."""

    batches: tuple[Batch, ...]
    count: int
    seen: int
    refused: Mapping[str, int]


def token_rows(sources: Sequence[OpenedSource], encoding: Encoding, rows: int, pad_id: int = 0) -> TokenRows:
    """At most `rows` rows of `encoding.fmt.seq_len` tokens.

    Args:
        sources: what is read, no more of it than is needed.
        encoding: how its rows become tokens.
        rows: how many at most.
        pad_id: the token of padding, which no statistic counts.

    Raises:
        DataError: there is not a single token.
    """
    seq_len = encoding.fmt.seq_len
    builder = ExampleBuilder(seq_len, "split")
    left = rows * seq_len
    for index, one in enumerate(sources):
        share = -(-left // (len(sources) - index))
        reader = _Share(one, encoding, share)
        builder.add(reader.rows(), "split")
        left -= share - reader.left
    examples = builder.finish()
    stats = examples.stats
    if len(examples) == 0:
        where = ", ".join(one.source.name for one in sources)
        said = f" ({reasons(stats)})" if stats.refused else ""
        raise DataError(
            f"there are no tokens to calibrate on: {stats.rows} rows were refused{said}"
            if stats.rows
            else "there are no rows to calibrate on",
            where=where,
            hint="check that the chosen columns hold the text",
        )
    packed = pack_best_fit(examples.lengths, np.arange(len(examples)), seq_len)
    count, at_a_time = min(rows, len(packed)), max(1, BATCH_TOKENS // seq_len)
    batches = tuple(
        fill(examples, packed.take(np.arange(first, min(first + at_a_time, count))), seq_len=seq_len, pad_id=pad_id)
        for first in range(0, count, at_a_time)
    )
    return TokenRows(batches, count, stats.rows, stats.refused)


class _Share:
    """The rows of one source until `left` positions are full; every token but the first is marked as a target."""

    def __init__(self, source: OpenedSource, encoding: Encoding, positions: int) -> None:
        self.source = source
        self.encoding = encoding
        self.left = positions

    def rows(self) -> Iterator[EncodedRow | str]:
        task = Task.TEXT if self.source.task in TARGET_ROLES else self.source.task
        encoder = self.encoding.encoder(task, self.source.source.name)
        for values, locate in self.source.read():
            for row in encoder.encode(values, locate):
                if self.left <= 0:
                    return
                yield row if isinstance(row, str) else self._cut(row)

    def _cut(self, row: EncodedRow) -> EncodedRow:
        tokens = row.tokens[: self.left + 1]
        self.left -= max(0, len(tokens) - 1)
        return EncodedRow(tokens, b"\1" * len(tokens))

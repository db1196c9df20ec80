"""Encoded rows become examples: the length policy, and a count of everything that was cut or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from entrenar_core.data.examples import Examples, ExampleStore
from entrenar_core.data.row_encoders import EncodedRow, Overlong

REFUSED_TOO_LONG = "longer than seq_len"
REFUSED_NO_TARGET = "nothing to learn"
"""Reasons for which a row is left out: data.overlong is drop and the row does not fit; no trained token is left (the
prompt alone fills the window, or there is only one token)."""


class ExampleBuilder:
    """Collects the examples of a data set.

    Args:
        seq_len: positions of an example, so seq_len + 1 tokens.
        overlong: ``truncate`` keeps the first seq_len + 1 tokens. ``split`` makes windows of that size, each beginning
            with the last token of the one before, so that every token but the first is a target exactly once; a window
            without a target is left out. ``drop`` refuses the row. None: what the encoder of the row thinks best. A
            labelled row that is not dropped is cut before its `n_last` entries.
        store: where the examples go.
    """

    def __init__(self, seq_len: int, overlong: Overlong | None, store: ExampleStore | None = None) -> None:
        self._seq_len = seq_len
        self._overlong = overlong
        self._store = ExampleStore() if store is None else store
        self._refused: Counter[str] = Counter()
        self._rows = 0
        self._overlong_rows = 0
        self._truncated_tokens = 0

    def __len__(self) -> int:
        return len(self._store)

    def add(self, rows: Iterable[EncodedRow | str], default_overlong: Overlong) -> None:
        """Add encoded rows; a text is the reason why its row was refused."""
        policy = self._overlong or default_overlong
        for row in rows:
            self._rows += 1
            if isinstance(row, str):
                self._refused[row] += 1
            else:
                self._add_row(row, policy)

    def finish(self) -> Examples:
        """The data set, maybe without an example; the builder must not be used after it."""
        return self._store.finish(
            rows=self._rows,
            overlong_rows=self._overlong_rows,
            truncated_tokens=self._truncated_tokens,
            refused=self._refused,
        )

    def _add_row(self, row: EncodedRow, policy: Overlong) -> None:
        too_long = len(row.tokens) - 1 - self._seq_len
        if too_long > 0 and policy == "drop":
            self._refused[REFUSED_TOO_LONG] += 1
        elif too_long > 0 and row.n_last:
            self._overlong_rows += 1
            self._truncated_tokens += too_long
            begin, end = self._seq_len + 1 - row.n_last, len(row.tokens) - row.n_last
            tokens = [*row.tokens[:begin], *row.tokens[end:]]
            self._store.add(tokens, row.supervised[:begin] + row.supervised[end:], row.value)
        else:
            self._add_windows(row, policy)

    def _add_windows(self, row: EncodedRow, policy: Overlong) -> None:
        tokens, supervised = row.tokens, row.supervised
        trained = sum(
            self._store.add(tokens[begin:end], supervised[begin:end], row.value)
            for begin, end in _windows(len(tokens), self._seq_len, policy)
        )
        if trained == 0:
            self._refused[REFUSED_NO_TARGET] += 1
        elif len(tokens) - 1 > self._seq_len:
            self._overlong_rows += 1
            self._truncated_tokens += supervised.count(1, 1) - trained


def _windows(n_tokens: int, seq_len: int, overlong: Overlong) -> Iterator[tuple[int, int]]:
    """Spans (begin, end) of at most seq_len + 1 tokens; the spans of a split row overlap by one token."""
    if n_tokens - 1 <= seq_len or overlong != "split":
        yield 0, min(n_tokens, seq_len + 1)
        return
    for begin in range(0, n_tokens - 1, seq_len):
        yield begin, min(n_tokens, begin + seq_len + 1)

"""Rows of strings become token examples: special tokens, the mask between prompt and completion, the length policy.

    text:                [bos] text... eos                            every token after the first is trained
    prompt, completion:  [bos] prompt separator | completion eos      trained from the bar on

Prompt (with its separator) and completion are tokenized apart, so that the mask begins exactly at the completion and no
token lies across the border. Text is data: what looks like a special token in it stays text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from entrenar_core.data.columns import ChosenColumns, PromptColumns
from entrenar_core.data.examples import Examples, ExampleStore
from entrenar_core.errors import DataError

if TYPE_CHECKING:
    from entrenar_core.tokenizer.tokenizer import Tokenizer

Overlong = Literal["truncate", "split", "drop"]

REFUSED_NULL = "null"
REFUSED_EMPTY = "empty"
REFUSED_TOO_LONG = "longer than seq_len"
REFUSED_NO_TARGET = "nothing to learn"
"""Reasons for which a row is left out: a value is missing; it is blank; data.overlong is drop and the row does not fit;
no trained token is left (the prompt alone fills the window, or there is only one token)."""


@dataclass(frozen=True)
class ExampleFormat:
    """How a row becomes an example; the fields mean what the keys of the YAML's `data` section mean.

    Attributes:
        seq_len: positions of an example, so seq_len + 1 tokens.
        overlong: ``truncate`` keeps the first seq_len + 1 tokens. ``split`` makes windows of that size, each beginning
            with the last token of the one before, so that every token but the first is a target exactly once; a window
            without a target is left out. ``drop`` refuses the row. None: split for text, truncate for a completion.
        add_bos: None asks the tokenizer.
    """

    seq_len: int
    separator: str = "\n"
    train_on_prompt: bool = False
    add_bos: bool | None = None
    add_eos: bool = True
    overlong: Overlong | None = None


class RowEncoder:
    """Takes batches of rows as a source streams them, and gives the data set at the end."""

    def __init__(self, columns: ChosenColumns, tokenizer: Tokenizer, fmt: ExampleFormat, *, where: str) -> None:
        """Raises DataError when a special token is asked for that the tokenizer does not have; `where` is the file."""
        self._has_prompt = isinstance(columns, PromptColumns)
        self._tokenizer = tokenizer
        self._format = fmt
        add_bos = tokenizer.add_bos if fmt.add_bos is None else fmt.add_bos
        self._bos = _special(tokenizer.bos_id, add_bos, "bos", where)
        self._eos = _special(tokenizer.eos_id, fmt.add_eos, "eos", where)
        self._overlong: Overlong = fmt.overlong or ("truncate" if self._has_prompt else "split")
        self._store = ExampleStore()
        self._refused: Counter[str] = Counter()
        self._rows = 0
        self._overlong_rows = 0
        self._truncated_tokens = 0

    def add(self, batch: tuple[list[str | None], ...]) -> None:
        """Encode a batch: one list of texts, or a list of prompts and a list of completions of the same length."""
        rows = list(self._usable(zip(*batch, strict=True)))
        self._rows += len(batch[0])
        if not rows:
            return
        if self._has_prompt:
            contexts = self._encode([row[0] + self._format.separator for row in rows])
            targets = self._encode([row[1] for row in rows], continues=True)
        else:
            contexts = [[] for _ in rows]
            targets = self._encode([row[0] for row in rows])
        for context, target in zip(contexts, targets, strict=True):
            self._add_row(context, target)

    def finish(self) -> Examples:
        """The data set of all rows, maybe without an example; the encoder must not be used after it."""
        return self._store.finish(
            rows=self._rows,
            overlong_rows=self._overlong_rows,
            truncated_tokens=self._truncated_tokens,
            refused=self._refused,
        )

    def _usable(self, rows: Iterable[tuple[str | None, ...]]) -> Iterator[tuple[str, ...]]:
        for row in rows:
            values = tuple(value for value in row if value is not None)
            if len(values) < len(row):
                self._refused[REFUSED_NULL] += 1
            elif not all(value.strip() for value in values):
                self._refused[REFUSED_EMPTY] += 1
            else:
                yield values

    def _encode(self, texts: list[str], *, continues: bool = False) -> list[list[int]]:
        return self._tokenizer.encode_batch(texts, add_special=False, parse_special=False, continues=continues)

    def _add_row(self, context: list[int], target: list[int]) -> None:
        tokens = [*self._bos, *context, *target, *self._eos]
        masked = 0 if self._format.train_on_prompt else len(tokens) - len(target) - len(self._eos)
        supervised = bytes(masked) + b"\1" * (len(tokens) - masked)
        targets = len(tokens) - 1
        if targets > self._format.seq_len and self._overlong == "drop":
            self._refused[REFUSED_TOO_LONG] += 1
            return
        trained = sum(
            self._store.add(tokens[begin:end], supervised[begin:end])
            for begin, end in _windows(len(tokens), self._format.seq_len, self._overlong)
        )
        if trained == 0:
            self._refused[REFUSED_NO_TARGET] += 1
        elif targets > self._format.seq_len:
            self._overlong_rows += 1
            self._truncated_tokens += supervised.count(1, 1) - trained


def _special(token_id: int | None, wanted: bool, kind: str, where: str) -> list[int]:
    if not wanted:
        return []
    if token_id is None:
        raise DataError(
            f"data.add_{kind} is on, but the tokenizer of the model has no {kind.upper()} token",
            where=where,
            hint=f"set data.add_{kind}: false" + (", and the model will not learn to stop" if kind == "eos" else ""),
        )
    return [token_id]


def _windows(n_tokens: int, seq_len: int, overlong: Overlong) -> Iterator[tuple[int, int]]:
    """Spans (begin, end) of at most seq_len + 1 tokens; the spans of a split row overlap by one token."""
    if n_tokens - 1 <= seq_len or overlong != "split":
        yield 0, min(n_tokens, seq_len + 1)
        return
    for begin in range(0, n_tokens - 1, seq_len):
        yield begin, min(n_tokens, begin + seq_len + 1)

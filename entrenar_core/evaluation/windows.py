"""Windows over one long text, as language models are measured by: which tokens are read together, and which are scored.

`llama_cpp_windows` are those of llama-perplexity, for the same figure; `sliding_windows` are those of Hugging Face's
guide to the perplexity of models with a fixed length, in which every token but the first is scored once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from entrenar_core.data.batch import IGNORE, Batch, Int32Array
from entrenar_core.errors import DataError

BATCH_TOKENS = 2048
"""Tokens of one forward pass, about; llama.cpp's default for --batch-size."""

_FEWEST_TOKENS = 4
"""Of a window: below, llama.cpp's scores none, or tokens without a context."""


@dataclass(frozen=True)
class Windows:
    """Windows of a text.

    Attributes:
        ids: int32 [n], the whole text.
        starts, stops: of each window, in `ids`; windows of one length follow each other.
        first_scored: of each window, the first token that is scored, counted from its start; all that follow are too.
        bos_id: what is read in place of each window's first token; None: that token.
    """

    ids: Int32Array
    starts: Int32Array
    stops: Int32Array
    first_scored: Int32Array
    bos_id: int | None = None

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_scored(self) -> int:
        """How many tokens are scored in all."""
        return int((self.stops - self.starts - self.first_scored).sum())

    def first(self, count: int) -> Windows:
        """At most so many of them, from the beginning."""
        part = slice(count)
        return replace(self, starts=self.starts[part], stops=self.stops[part], first_scored=self.first_scored[part])

    def batches(self, rows_per_batch: int | None = None) -> Iterator[Batch]:
        """All windows, one a row; anew at each call.

        Args:
            rows_per_batch: how many rows share a batch; None: as many as make `BATCH_TOKENS` tokens.
        """
        lengths = self.stops - self.starts
        start = 0
        while start < len(self):
            width = int(lengths[start])
            most = max(1, BATCH_TOKENS // width) if rows_per_batch is None else rows_per_batch
            alike = int(np.argmax(np.append(lengths[start : start + most] != width, True)))
            yield self._batch(slice(start, start + alike), width)
            start += alike

    def _batch(self, rows: slice, width: int) -> Batch:
        columns = np.arange(width, dtype=np.int32)
        tokens = self.ids[self.starts[rows, None] + columns]
        labels = np.full(tokens.shape, IGNORE, np.int32)
        labels[:, :-1] = np.where(columns[1:] >= self.first_scored[rows, None], tokens[:, 1:], IGNORE)
        if self.bos_id is not None:
            tokens[:, 0] = self.bos_id
        positions = np.ascontiguousarray(np.broadcast_to(columns, tokens.shape))
        n_supervised = int(np.count_nonzero(labels != IGNORE))
        return Batch(tokens, labels, positions, np.zeros_like(tokens), tokens.size, n_supervised)


def llama_cpp_windows(
    ids: Int32Array, context: int, *, bos_id: int | None = None, chunks: int | None = None
) -> Windows:
    """The windows of llama-perplexity (llama.cpp, tools/perplexity/perplexity.cpp, without --ppl-stride).

    The text is cut into chunks of `context` tokens, and what is left at its end is not used. The first half of each
    chunk is context alone: tokens context//2 + 1 ... context - 1 are scored.

    Args:
        ids: int32 [n], the text tokenized as a whole, with BOS in front where the model wants one.
        context: tokens of a chunk.
        bos_id: BOS, where the model wants one: each chunk begins with it in place of its first token.

    Raises:
        DataError: the text has less than two chunks, which llama-perplexity refuses too, or a chunk is too short.
    """
    _check_context(context)
    if len(ids) < 2 * context:
        raise DataError(
            f"the text has {len(ids)} tokens: two windows of {context} at least are needed",
            hint=f"take a longer text, or windows of at most {len(ids) // 2} tokens",
        )
    count = len(ids) // context
    starts = np.arange(count, dtype=np.int32) * context
    first_scored = np.full(count, context // 2 + 1, np.int32)
    return Windows(ids, starts, starts + context, first_scored, bos_id)


def sliding_windows(ids: Int32Array, context: int, stride: int) -> Windows:
    """Windows that begin every `stride` tokens, each scored from where the one before it ended.

    So every token but the first of the text is scored once, and all but those of the first window after at least
    context - stride others (Hugging Face, "Perplexity of fixed-length models"). With stride = context the windows do
    not overlap; as there, the first token of each is then read and not scored.

    Args:
        ids: int32 [n], the text tokenized as a whole.
        context: the most tokens of a window.
        stride: tokens from the begin of one to that of the next; 1 ... context.

    Raises:
        DataError: the text has less than two tokens, or windows cannot be so.
    """
    _check_context(context)
    if not 1 <= stride <= context:
        raise DataError(f"a stride of {stride} for windows of {context} tokens", hint="take 1 to the window's tokens")
    if len(ids) < 2:
        raise DataError(f"the text has {len(ids)} tokens: none is predicted from another", hint="take a longer text")
    count = 1 + max(0, -(-(len(ids) - context) // stride))
    starts = np.arange(count, dtype=np.int32) * stride
    stops = np.minimum(starts + context, len(ids)).astype(np.int32)
    scored_before = np.concatenate(([0], stops[:-1])).astype(np.int32)
    return Windows(ids, starts, stops, np.maximum(scored_before - starts, 1).astype(np.int32))


def _check_context(context: int) -> None:
    if context < _FEWEST_TOKENS:
        raise DataError(f"windows of {context} tokens: at least {_FEWEST_TOKENS} are needed")

"""An example as text again, cut where training begins and ends: what the model only reads, and what it learns.

The text is decoded from the very ids and flags that are trained on, so a wrong mask shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby

from entrenar_core.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class Segment:
    """A piece of text. `is_special`: one control token, spelled as in the vocabulary."""

    text: str
    is_trained: bool
    is_special: bool = False


def segments_of(tokens: Iterable[int], supervised: Iterable[bool], tokenizer: Tokenizer) -> tuple[Segment, ...]:
    """The segments of an example.

    Args:
        tokens: its ids.
        supervised: for each of them, whether it is a target.
        tokenizer: of the model.
    """
    marked = [
        (int(token), bool(flag), _is_special(int(token), tokenizer))
        for token, flag in zip(tokens, supervised, strict=True)
    ]
    return tuple(_segments(marked, tokenizer))


def _segments(marked: list[tuple[int, bool, bool]], tokenizer: Tokenizer) -> Iterator[Segment]:
    for (is_trained, is_special), group in groupby(marked, key=lambda one: one[1:]):
        ids = [token for token, _, _ in group]
        if is_special:
            yield from (Segment(tokenizer.token_text(token), is_trained, True) for token in ids)
        else:
            text = b"".join(tokenizer.token_bytes(token) for token in ids).decode("utf-8", "replace")
            yield Segment(text, is_trained)


def _is_special(token: int, tokenizer: Tokenizer) -> bool:
    return not tokenizer.token_bytes(token) and bool(tokenizer.token_bytes(token, skip_special=False))
